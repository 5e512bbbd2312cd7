//! Which groups come last for the processors: those that have just used more than their share of them.
//!
//! All groups have the same weight, which divides the processors fairly and leaves whoever wants little of them waiting
//! for time slices of those who take all that they can get. A group that comes last has a sixty-fourth of that weight, and
//! is nearly as good as absent for the others; when it has come down to its share, it is one of them again. So whoever wants
//! less than a share waits for nobody, and no two that want more than theirs are kept waiting for each other.
//!
//! While nothing runs but what comes last, all groups together weigh little, too, beside the rest of the host: beside the
//! kernel's threads and this service, which others wait for. One who is alone keeps the usual weight.

use super::cell::Cell;
use super::{Timer, Warden};
use crate::control::Boottime;
use crate::id::GroupId;
use std::collections::HashMap;

/// How often it is looked who uses the processors, while somebody does …
const LOOK_EVERY_US: u64 = 100_000;
/// … and with which of these looks also at cells in which nothing ran before: what a program left behind may wake up.
const LOOKS_AT_ALL: u64 = 10;

/// Parts of all that the processors can do.
const WHOLE: u64 = 1_000_000;
/// A group that uses as little does not count as one that shares.
const LITTLE: u64 = WHOLE / 100;
/// A group that uses no more than that never comes last.
const MODEST: u64 = WHOLE / 8;

/// What groups used lately.
#[derive(Debug)]
pub struct Precedence {
    processors: u64,
    /// The last look; `None` while nobody uses anything.
    since: Option<Boottime>,
    looks: u64,
    groups: HashMap<GroupId, Usage>,
    /// The whole tree comes last.
    all: bool,
}

#[derive(Debug, Default)]
struct Usage {
    /// Since the last look, in microseconds of one processor.
    now_us: u64,
    /// Of [`WHOLE`]; what is older counts half as much with every look.
    recent: u64,
    last: bool,
}

impl Precedence {
    /// For a machine with so many processors.
    pub fn new(processors: usize) -> Self {
        Self { processors: processors as u64, since: None, looks: 0, groups: HashMap::new(), all: false }
    }

    /// A group has used so much of one processor, in microseconds.
    pub fn add(&mut self, group: GroupId, cpu_us: u64) {
        if cpu_us > 0 {
            self.groups.entry(group).or_default().now_us += cpu_us;
        }
    }

    /// Whether it comes last.
    pub fn is_last(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|usage| usage.last)
    }

    /// Whether somebody comes last, and who comes last is not alone.
    pub fn is_contended(&self) -> bool {
        self.groups.len() > 1 && self.groups.values().any(|usage| usage.last)
    }

    /// Judges by what was used since the last look: who comes last from now on, and who does not any more.
    pub fn look(&mut self, now: Boottime) -> Vec<(GroupId, bool)> {
        let since = self.since.replace(now).unwrap_or(now);
        let capacity_us = self.processors * now.since_us(since).max(1);
        self.looks += 1;
        for usage in self.groups.values_mut() {
            let part = std::mem::take(&mut usage.now_us).saturating_mul(WHOLE) / capacity_us;
            usage.recent = usage.recent.midpoint(part.min(WHOLE));
        }
        let sharing = self.groups.values().filter(|usage| usage.recent > LITTLE).count();
        // Of what groups got, and not of the machine: others run on it, too. One who is alone leaves room for another,
        // who may come at any time.
        let all: u64 = self.groups.values().map(|usage| usage.recent).sum();
        let share = (all / sharing.max(2) as u64).max(MODEST);
        let mut changes = Vec::new();
        for (group, usage) in &mut self.groups {
            // Between the two it stays what it is, so that equals who take all they can do not change places.
            let last = usage.recent > share + share / 4 || usage.last && usage.recent > share - share / 8;
            if std::mem::replace(&mut usage.last, last) != last {
                changes.push((*group, last));
            }
        }
        self.groups.retain(|_, usage| usage.recent > 0 || usage.last);
        changes
    }
}

impl Warden {
    /// Something begins to run.
    pub(super) fn watch_precedence(&mut self) {
        if self.precedence.since.is_none() {
            let now = Boottime::now();
            self.precedence.since = Some(now);
            self.timers.insert((now.plus_us(LOOK_EVERY_US), Timer::Precedence));
        }
    }

    /// It is time for a look.
    pub(super) fn look(&mut self, now: Boottime) {
        let at_all = self.precedence.looks.is_multiple_of(LOOKS_AT_ALL);
        let mut running = false;
        for cell in self.cells.values_mut() {
            running |= cell.deadline.is_some();
            if let (Some((group, _)), Some(taken)) = (cell.place, &mut cell.taken)
                && (at_all || cell.deadline.is_some() || taken.was_busy)
            {
                self.precedence.add(group, taken.cpu_since_us());
            }
        }
        for (group, last) in self.precedence.look(now) {
            self.tree.put_last(group, last);
        }
        self.weigh_all();
        if running || !self.precedence.groups.is_empty() {
            self.timers.insert((now.plus_us(LOOK_EVERY_US), Timer::Precedence));
        } else {
            self.precedence.since = None;
        }
    }

    /// Weighs the whole tree by what runs in it.
    pub(super) fn weigh_all(&mut self) {
        let precedence = &self.precedence;
        let goes_first = |cell: &Cell| {
            cell.deadline.is_some() && cell.place.is_some_and(|(group, _)| !precedence.is_last(group))
        };
        let all = precedence.is_contended() && !self.cells.values().any(goes_first);
        if std::mem::replace(&mut self.precedence.all, all) != all {
            self.tree.put_all_last(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;
    use proptest::prelude::*;

    const LOOK_US: u64 = 100_000;

    fn group(number: u8) -> GroupId {
        GroupId(Id::from_bytes([number; 16]))
    }

    /// So many looks at a machine of two processors, of which the groups use these parts.
    fn looks(precedence: &mut Precedence, count: usize, parts: &[(u8, u64)]) -> Vec<(GroupId, bool)> {
        let mut changes = Vec::new();
        for _ in 0..count {
            for &(number, percent) in parts {
                precedence.add(group(number), 2 * LOOK_US * percent / 100);
            }
            let since = precedence.since.unwrap_or_else(Boottime::now);
            precedence.since = Some(since);
            let now = since.plus_us(LOOK_US);
            changes.extend(precedence.look(now));
        }
        changes
    }

    #[test]
    fn who_takes_all_comes_last_and_comes_back() {
        let mut precedence = Precedence::new(2);
        assert_eq!(looks(&mut precedence, 3, &[(1, 95), (2, 5)]), [(group(1), true)]);
        // What the others leave is more than a share: nothing changes.
        assert_eq!(looks(&mut precedence, 20, &[(1, 60), (2, 40)]), []);
        // So it is on a machine half of which is used by somebody else.
        assert_eq!(looks(&mut precedence, 20, &[(1, 35), (2, 15)]), []);
        assert!(precedence.is_last(group(1)) && !precedence.is_last(group(2)) && precedence.is_contended());
        assert_eq!(looks(&mut precedence, 20, &[(1, 5), (2, 15)]), [(group(1), false)]);
        looks(&mut precedence, 40, &[]);
        assert!(precedence.groups.is_empty());
    }

    #[test]
    fn equals_stay_equals() {
        let mut precedence = Precedence::new(2);
        assert_eq!(looks(&mut precedence, 20, &[(1, 52), (2, 48)]), []);
        let mut precedence = Precedence::new(2);
        assert_eq!(looks(&mut precedence, 20, &[(1, 35), (2, 33), (3, 32)]), []);
    }

    #[test]
    fn the_second_who_takes_all_is_the_first_ones_equal() {
        let mut precedence = Precedence::new(2);
        assert_eq!(looks(&mut precedence, 9, &[(1, 100)]), [(group(1), true)]);
        assert!(!precedence.is_contended(), "nobody else is there");
        // The newcomer gets all, as long as the other comes last.
        let changes = looks(&mut precedence, 9, &[(1, 0), (2, 100)]);
        assert!(changes.contains(&(group(1), false)) && changes.contains(&(group(2), true)), "{changes:?}");
    }

    proptest! {
        /// Whoever uses little does not come last, however the others behave.
        #[test]
        fn the_modest_never_come_last(
            steps in proptest::collection::vec((0u64..=12, 0u64..=40, 0u64..=40), 1..60),
        ) {
            let mut precedence = Precedence::new(2);
            for (modest, second, rest) in steps {
                looks(&mut precedence, 1, &[(1, modest), (2, second), (3, rest)]);
                prop_assert!(!precedence.is_last(group(1)));
            }
        }
    }
}
