//! Host user ids: a pair for each session, and one for each browser, which runs before it has a session. No two of them that
//! live share one.

use std::collections::VecDeque;

/// The free pairs. A pair that comes back is used last, so that a stale file or process is noticed before its user is
/// somebody else.
#[derive(Debug)]
pub struct Uids {
    free: VecDeque<UidPair>,
}

/// Two neighbouring host user ids: pid 1 of a native cell is the first, guests are the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UidPair(u32);

impl UidPair {
    /// What is user 0 inside.
    pub fn init(self) -> u32 {
        self.0
    }

    /// What guests are, inside and in the workspace.
    pub fn guest(self) -> u32 {
        self.0 + 1
    }
}

impl Uids {
    /// Pairs from `base`, `count` ids together.
    pub fn new(base: u32, count: u32) -> Self {
        Self { free: (0..count / 2).filter_map(|n| base.checked_add(n * 2)).map(UidPair).collect() }
    }

    /// A pair that nobody has.
    pub fn take(&mut self) -> Option<UidPair> {
        self.free.pop_front()
    }

    /// Gives a pair back, after its last process and file are gone.
    pub fn give_back(&mut self, pair: UidPair) {
        debug_assert!(!self.free.contains(&pair), "given back twice");
        self.free.push_back(pair);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    proptest! {
        #[test]
        fn no_two_holders_share_an_id(steps in proptest::collection::vec(any::<bool>(), 0..200)) {
            let mut uids = Uids::new(1000, 20);
            let mut held: Vec<UidPair> = Vec::new();
            for take in steps {
                if take {
                    let taken = uids.take();
                    prop_assert_eq!(taken.is_none(), held.len() == 10);
                    held.extend(taken);
                } else if !held.is_empty() {
                    uids.give_back(held.remove(0));
                }
                let ids: HashSet<u32> = held.iter().flat_map(|pair| [pair.init(), pair.guest()]).collect();
                prop_assert_eq!(ids.len(), held.len() * 2);
            }
        }
    }
}
