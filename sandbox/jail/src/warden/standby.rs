//! Browsers that nobody uses: frozen by the kernel, so that pages that go on by themselves cost nothing.

use super::cell::State;
use super::{Warden, log};
use crate::control::Boottime;
use crate::id::CellId;

impl Warden {
    /// Stops a browser's processes, or lets them go on. Where the kernel cannot do that, or the cell is no browser's, nothing
    /// happens: it counts as active.
    pub(super) fn freeze(&mut self, id: CellId, frozen: bool) {
        let Some(cell) = self.cells.get_mut(&id).filter(|cell| cell.state == State::Live) else { return };
        let (Some(watch), Some(place)) = (&mut cell.stopwatch, cell.place) else { return };
        if watch.is_frozen() == frozen {
            return;
        }
        match self.tree.freeze(place, id, frozen) {
            Ok(true) if frozen => watch.freeze(Boottime::now()),
            Ok(true) => watch.thaw(Boottime::now()),
            Ok(false) => {}
            Err(error) => log(&format!("freeze a browser ({frozen}): {error}")),
        }
    }

    /// Lets all of them go on.
    pub(super) fn thaw_all(&mut self) {
        for id in self.cells.keys().copied().collect::<Vec<_>>() {
            self.freeze(id, false);
        }
    }
}
