//! Random numbers of a session. The snapshot holds a generator with a seed that everybody knows, so `start`
//! gives it the session's own; ChaCha20 serves `Math.random` and `crypto` alike.

use std::cell::RefCell;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const SEED_BYTES: usize = 32;

/// A double has 53 bits of precision below one.
const RANDOM_BITS: u32 = 53;

thread_local! {
    static GENERATOR: RefCell<Option<ChaCha20Rng>> = const { RefCell::new(None) };
}

/// Takes 64 hexadecimal digits. `None` if they are something else.
pub fn seed(hex: &str) -> Option<()> {
    let digits = hex.as_bytes();
    if digits.len() != 2 * SEED_BYTES || !hex.is_ascii() {
        return None;
    }
    let mut seed = [0; SEED_BYTES];
    for (byte, pair) in seed.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    GENERATOR.set(Some(ChaCha20Rng::from_seed(seed)));
    Some(())
}

fn with_generator<R>(action: impl FnOnce(&mut ChaCha20Rng) -> R) -> R {
    GENERATOR
        .with_borrow_mut(|slot| action(slot.get_or_insert_with(|| ChaCha20Rng::from_seed([0; SEED_BYTES]))))
}

/// At least 0 and below 1.
#[must_use]
pub fn number() -> f64 {
    let bits = with_generator(RngCore::next_u64) >> (u64::BITS - RANDOM_BITS);
    bits as f64 / (1_u64 << RANDOM_BITS) as f64
}

/// As many random bytes.
#[must_use]
pub fn bytes(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    with_generator(|generator| generator.fill_bytes(&mut bytes));
    bytes
}
