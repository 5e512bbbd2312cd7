//! Time that only moves forward, for timers and `performance`.

use std::cell::Cell;
use std::time::Instant;

thread_local! {
    static ORIGIN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Time begins with the session: the snapshot's clock belongs to the machine that built the image.
pub fn restart() {
    ORIGIN.set(Some(Instant::now()));
}

/// Milliseconds since the session began.
#[must_use]
pub fn monotonic_ms() -> f64 {
    if ORIGIN.get().is_none() {
        restart();
    }
    ORIGIN.get().map_or(0.0, |origin| origin.elapsed().as_secs_f64() * 1000.0)
}
