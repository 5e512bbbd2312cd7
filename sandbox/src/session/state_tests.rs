//! Any sequence of requests and events keeps what the state machine promises.

use super::*;
use anchorhold_jail::control::{Digest, Interpreter};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

#[derive(Debug, Clone)]
enum Step {
    Submit { context: u8, reset: bool },
    Taken { context: u8 },
    TakeFailed { context: u8 },
    Ended { cell: u8, lost: bool },
    Lie { cell: u8, execution: u8 },
    Stop { cell: u8 },
    CellEnded { cell: u8 },
    GiveUp { cell: u8 },
    Cancel { execution: u8 },
    Close,
    SessionEnded,
    WardenLost { elsewhere: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0u8..3, prop::bool::weighted(0.2)).prop_map(|(context, reset)| Step::Submit { context, reset }),
        8 => (0u8..3).prop_map(|context| Step::Taken { context }),
        1 => (0u8..3).prop_map(|context| Step::TakeFailed { context }),
        8 => (any::<u8>(), prop::bool::weighted(0.2)).prop_map(|(cell, lost)| Step::Ended { cell, lost }),
        1 => any::<(u8, u8)>().prop_map(|(cell, execution)| Step::Lie { cell, execution }),
        1 => any::<u8>().prop_map(|cell| Step::Stop { cell }),
        4 => any::<u8>().prop_map(|cell| Step::CellEnded { cell }),
        1 => any::<u8>().prop_map(|cell| Step::GiveUp { cell }),
        3 => any::<u8>().prop_map(|execution| Step::Cancel { execution }),
        1 => prop::bool::weighted(0.2).prop_map(|close| if close { Step::Close } else { Step::Taken { context: 0 } }),
        1 => prop::bool::weighted(0.1).prop_map(|end| if end { Step::SessionEnded } else { Step::Taken { context: 1 } }),
        1 => prop::bool::weighted(0.1)
            .prop_map(|lost| if lost { Step::WardenLost { elsewhere: lost } } else { Step::Taken { context: 2 } }),
    ]
}

/// What a careful observer knows of a session, from its requests and effects alone.
#[derive(Debug, Default)]
struct Observer {
    accepted: Vec<(ExecutionId, ContextKey)>,
    settled: HashMap<ExecutionId, Settled>,
    ran: Vec<ExecutionId>,
    running: HashMap<CellId, ExecutionId>,
    dead: HashSet<CellId>,
    owner: HashMap<CellId, ContextKey>,
    taking: Vec<ContextKey>,
    cells: Vec<CellId>,
}

impl Observer {
    fn context_of(&self, execution: ExecutionId) -> ContextKey {
        self.accepted.iter().find(|(id, _)| *id == execution).unwrap().1.clone()
    }

    fn see(&mut self, effects: Vec<Effect>, phase: SessionState) {
        for effect in effects {
            match effect {
                Effect::Take(key) => {
                    assert_eq!(phase, SessionState::Open, "nothing starts in a closing session");
                    assert!(!self.taking.contains(&key), "one take at a time");
                    self.taking.push(key);
                }
                Effect::Run { cell, execution } => self.see_run(cell, execution, phase),
                Effect::Interrupt { cell, execution } => {
                    assert_eq!(self.running.get(&cell), Some(&execution))
                }
                Effect::Kill(cell) => {
                    self.dead.insert(cell);
                }
                Effect::Settle { execution, how } => {
                    assert!(self.settled.insert(execution, how).is_none(), "settled twice");
                    let ran = self.ran.contains(&execution);
                    match how {
                        Settled::Ended | Settled::Died => assert!(ran),
                        Settled::Withdrawn | Settled::Refused => assert!(!ran),
                        Settled::Lost => {}
                    }
                    self.running.retain(|_, running| *running != execution);
                }
            }
        }
    }

    fn see_run(&mut self, cell: CellId, execution: ExecutionId, phase: SessionState) {
        assert_eq!(phase, SessionState::Open, "nothing runs in a closing session");
        assert!(!self.dead.contains(&cell), "a dead cell is never used again");
        assert!(!self.settled.contains_key(&execution) && !self.ran.contains(&execution));
        let key = self.context_of(execution);
        assert_eq!(self.owner.get(&cell), Some(&key), "a cell belongs to one context");
        assert!(self.running.insert(cell, execution).is_none(), "one at a time");
        assert!(
            self.running.values().filter(|other| self.context_of(**other) == key).count() == 1,
            "one at a time in a context, also with two cells"
        );
        let before = self.accepted.iter().take_while(|(id, _)| *id != execution);
        let mut before = before.filter(|(_, context)| *context == key);
        assert!(
            before.all(|(id, _)| self.ran.contains(id) || self.settled.contains_key(id)),
            "arrival order"
        );
        self.ran.push(execution);
    }
}

fn key(context: u8) -> ContextKey {
    ContextKey { image: Digest([0; 32]), interpreter: Interpreter::Own, name: context.to_string() }
}

fn pick<T: Copy>(from: &[T], index: u8) -> Option<T> {
    (!from.is_empty()).then(|| from[usize::from(index) % from.len()])
}

fn apply(state: &mut State, seen: &mut Observer, step: Step) {
    let effects = match step {
        Step::Submit { context, reset } => {
            let (id, key) = (ExecutionId::random(), key(context));
            match state.submit(id, &key, reset) {
                Ok(effects) => {
                    seen.accepted.push((id, key));
                    effects
                }
                Err(Denied::Closed) => {
                    assert_ne!(state.phase(), SessionState::Open);
                    return;
                }
                Err(denied) => panic!("{denied:?}"),
            }
        }
        Step::Taken { context } | Step::TakeFailed { context } if !seen.taking.contains(&key(context)) => {
            return;
        }
        Step::Taken { context } => {
            let cell = CellId::random();
            seen.taking.retain(|taking| *taking != key(context));
            seen.owner.insert(cell, key(context));
            seen.cells.push(cell);
            state.taken(&key(context), cell)
        }
        Step::TakeFailed { context } => {
            seen.taking.retain(|taking| *taking != key(context));
            state.take_failed(&key(context))
        }
        Step::Ended { cell, lost } => {
            let Some(cell) = pick(&seen.cells, cell) else { return };
            let Some(execution) = seen.running.get(&cell).copied() else { return };
            let doomed = seen.dead.contains(&cell);
            let effects = state.ended(cell, execution, lost);
            assert_eq!(effects.is_none(), doomed, "believed exactly while nobody wants the cell dead");
            effects.unwrap_or_default()
        }
        Step::Lie { cell, execution } => {
            let (Some(cell), Some((id, _))) = (pick(&seen.cells, cell), pick_ref(&seen.accepted, execution))
            else {
                return;
            };
            if seen.running.get(&cell) != Some(&id) {
                assert_eq!(state.ended(cell, id, false), None);
            }
            return;
        }
        Step::Stop { cell } => pick(&seen.cells, cell).map(|cell| state.stop(cell)).unwrap_or_default(),
        Step::CellEnded { cell } | Step::GiveUp { cell } => {
            let Some(id) = pick(&seen.cells, cell) else { return };
            seen.dead.insert(id);
            if matches!(step, Step::GiveUp { .. }) { state.give_up(id) } else { state.cell_ended(id) }
        }
        Step::Cancel { execution } => {
            let Some((id, _)) = pick_ref(&seen.accepted, execution) else { return };
            let here = !seen.settled.contains_key(&id);
            let effects = state.cancel(id);
            assert_eq!(effects.is_some(), here, "whatever is not settled can be cancelled");
            effects.unwrap_or_default()
        }
        Step::Close => state.close(),
        Step::SessionEnded => state.session_ended(),
        Step::WardenLost { elsewhere } => {
            seen.taking.clear();
            state.warden_lost(elsewhere)
        }
    };
    seen.see(effects, state.phase());
}

fn pick_ref(from: &[(ExecutionId, ContextKey)], index: u8) -> Option<(ExecutionId, ContextKey)> {
    (!from.is_empty()).then(|| from[usize::from(index) % from.len()].clone())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn every_sequence_keeps_the_promises(steps in prop::collection::vec(step(), 0..120)) {
        let (mut state, mut seen) = (State::new(), Observer::default());
        for step in steps {
            apply(&mut state, &mut seen, step);
            for (_, _, _, waiting) in state.contexts() {
                prop_assert!(waiting <= WAITING_MAX);
            }
        }
        apply(&mut state, &mut seen, Step::Close);
        apply(&mut state, &mut seen, Step::SessionEnded);
        for (execution, _) in &seen.accepted {
            prop_assert!(seen.settled.contains_key(execution), "every accepted execution is settled");
        }
        prop_assert_eq!(state.contexts().count(), 0);
    }

    #[test]
    fn whatever_happens_a_session_that_stays_open_comes_to_rest(steps in prop::collection::vec(step(), 0..80)) {
        let (mut state, mut seen) = (State::new(), Observer::default());
        for step in steps {
            if !matches!(step, Step::Close | Step::SessionEnded | Step::WardenLost { .. }) {
                apply(&mut state, &mut seen, step);
            }
        }
        // A warden that gives every cell, cells that end every execution: nothing waits for ever.
        for _ in 0..200 {
            for context in 0..3 {
                apply(&mut state, &mut seen, Step::Taken { context });
            }
            for cell in 0..u8::try_from(seen.cells.len().min(250)).unwrap() {
                let dead = seen.dead.contains(&seen.cells[usize::from(cell)]);
                let step = if dead { Step::CellEnded { cell } } else { Step::Ended { cell, lost: false } };
                apply(&mut state, &mut seen, step);
            }
        }
        prop_assert!(seen.accepted.iter().all(|(id, _)| seen.settled.contains_key(id)));
    }
}

#[test]
fn the_queue_is_bounded_and_so_are_the_contexts() {
    let mut state = State::new();
    for _ in 0..WAITING_MAX {
        assert!(state.submit(ExecutionId::random(), &key(0), false).is_ok());
    }
    assert_eq!(state.submit(ExecutionId::random(), &key(0), false), Err(Denied::Busy));
    for context in 1..u8::try_from(CONTEXTS_MAX).unwrap() {
        assert!(state.submit(ExecutionId::random(), &key(context), false).is_ok());
    }
    assert_eq!(state.submit(ExecutionId::random(), &key(200), false), Err(Denied::TooManyContexts));
}

#[test]
fn a_reset_ends_the_cell_first() {
    let (mut state, cell) = (State::new(), CellId::random());
    let [first, second] = [ExecutionId::random(), ExecutionId::random()];
    assert_eq!(state.submit(first, &key(0), true), Ok(vec![Effect::Take(key(0))]));
    assert_eq!(state.taken(&key(0), cell), vec![Effect::Run { cell, execution: first }]);
    assert_eq!(state.submit(second, &key(0), true), Ok(vec![]));
    let ended = Effect::Settle { execution: first, how: Settled::Ended };
    assert_eq!(state.ended(cell, first, false), Some(vec![ended, Effect::Kill(cell)]));
    assert_eq!(state.cell_ended(cell), vec![Effect::Take(key(0))]);
    let next = CellId::random();
    assert_eq!(state.taken(&key(0), next), vec![Effect::Run { cell: next, execution: second }]);
}

#[test]
fn a_dead_warden_loses_sessions_with_cells_only() {
    let mut state = State::new();
    assert_eq!(state.warden_lost(false), vec![]);
    assert_eq!(state.phase(), SessionState::Open);
    let id = ExecutionId::random();
    state.submit(id, &key(0), false).unwrap();
    assert_eq!(state.warden_lost(false), vec![Effect::Settle { execution: id, how: Settled::Lost }]);
    assert_eq!(state.phase(), SessionState::Lost);
}

#[test]
fn adopted_contexts_go_on() {
    let (mut state, cell, running) = (State::new(), CellId::random(), ExecutionId::random());
    assert!(state.adopt(&key(0), cell, Some(running)));
    assert!(!state.adopt(&key(0), CellId::random(), None));
    let next = ExecutionId::random();
    assert_eq!(state.submit(next, &key(0), false), Ok(vec![]));
    let effects = state.ended(cell, running, false).unwrap();
    assert_eq!(effects[1], Effect::Run { cell, execution: next });
}
