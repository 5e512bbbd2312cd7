//! Who is served next, when many groups wait for the same cells: one of each group in turn, and within a group in
//! order of arrival. However many requests one group has, another's first is served after at most one of each.

use crate::id::GroupId;
use std::collections::VecDeque;

/// What waits, by group. The group in front is served next.
#[derive(Debug)]
pub struct Queue<T> {
    groups: VecDeque<(GroupId, VecDeque<T>)>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { groups: VecDeque::new() }
    }
}

impl<T> Queue<T> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.groups.iter().map(|(_, items)| items.len()).sum()
    }

    /// How many of a group wait.
    pub fn len_of(&self, group: GroupId) -> usize {
        self.groups.iter().find(|(known, _)| *known == group).map_or(0, |(_, items)| items.len())
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Another one waits; a group that did not wait yet is served after all others.
    pub fn push(&mut self, group: GroupId, item: T) {
        match self.groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, items)) => items.push_back(item),
            None => self.groups.push_back((group, [item].into())),
        }
    }

    /// The next one that `fits`. Its group is then served after all others; one that does not fit holds up nobody.
    pub fn next(&mut self, mut fits: impl FnMut(&T) -> bool) -> Option<T> {
        let mut find = |items: &VecDeque<T>| items.iter().position(&mut fits);
        let (turn, place) =
            self.groups.iter().enumerate().find_map(|(turn, (_, items))| Some((turn, find(items)?)))?;
        let (group, mut items) = self.groups.remove(turn)?;
        let item = items.remove(place);
        if !items.is_empty() {
            self.groups.push_back((group, items));
        }
        item
    }

    /// Takes out all of which that is true, in no particular order.
    pub fn take_out(&mut self, mut which: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut out = Vec::new();
        for (_, items) in &mut self.groups {
            let (taken, left): (VecDeque<T>, VecDeque<T>) =
                std::mem::take(items).into_iter().partition(&mut which);
            out.extend(taken);
            *items = left;
        }
        self.groups.retain(|(_, items)| !items.is_empty());
        out
    }

    /// All that wait, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.groups.iter().flat_map(|(_, items)| items)
    }

    /// Nobody waits any more.
    pub fn clear(&mut self) {
        self.groups.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Id;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn group(number: u8) -> GroupId {
        GroupId(Id::from_bytes([number; 16]))
    }

    #[test]
    fn a_crowd_holds_up_nobody() {
        let mut queue = Queue::default();
        for n in 0..1000 {
            queue.push(group(1), (1, n));
        }
        queue.push(group(2), (2, 0));
        queue.push(group(3), (3, 0));
        queue.push(group(2), (2, 1));
        let served: Vec<_> = std::iter::from_fn(|| queue.next(|_| true)).take(6).collect();
        assert_eq!(served, [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (1, 2)]);
        assert_eq!((queue.len(), queue.len_of(group(1)), queue.len_of(group(2))), (997, 997, 0));
        assert_eq!(queue.take_out(|(_, n)| n % 2 == 0).len(), 498);
        assert_eq!(queue.next(|(_, n)| *n > 500), Some((1, 501)), "what does not fit is passed over");
        assert_eq!(queue.next(|_| false), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push { group: u8, kind: u8 },
        Serve { kind: u8 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..5, 0u8..2).prop_map(|(group, kind)| Step::Push { group, kind }),
            (0u8..2).prop_map(|kind| Step::Serve { kind }),
        ]
    }

    proptest! {
        /// Nothing is lost or doubled; a group's requests of a kind are served in order; and between two services of
        /// one group, no other group that could have been served all the while was passed over.
        #[test]
        fn no_group_starves(steps in prop::collection::vec(step(), 0..400)) {
            let mut queue = Queue::default();
            let mut model: HashMap<(u8, u8), VecDeque<usize>> = HashMap::new();
            // For each group and kind that waits: who was served of that kind since it began to wait.
            let mut passed: HashMap<(u8, u8), Vec<u8>> = HashMap::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push { group: who, kind } => {
                        queue.push(group(who), (who, kind, number));
                        model.entry((who, kind)).or_default().push_back(number);
                        passed.entry((who, kind)).or_default();
                    }
                    Step::Serve { kind } => {
                        let served = queue.next(|(_, wanted, _)| *wanted == kind);
                        let any = model.iter().any(|((_, k), waiting)| *k == kind && !waiting.is_empty());
                        prop_assert_eq!(served.is_some(), any);
                        let Some((who, _, number)) = served else { continue };
                        let waiting = model.get_mut(&(who, kind)).unwrap();
                        prop_assert_eq!(waiting.pop_front(), Some(number));
                        passed.retain(|(group, _), _| *group != who);
                        for (place, _) in model.iter().filter(|((g, _), waiting)| *g == who && !waiting.is_empty()) {
                            passed.insert(*place, Vec::new());
                        }
                        for ((other, k), list) in &mut passed {
                            if *k == kind && *other != who {
                                prop_assert!(!list.contains(&who), "group {who} twice before group {other}");
                                list.push(who);
                            }
                        }
                    }
                }
            }
            prop_assert_eq!(queue.len(), model.values().map(VecDeque::len).sum::<usize>());
            prop_assert_eq!(queue.is_empty(), queue.iter().count() == 0);
        }
    }
}
