//! What may happen in a session now. Pure: no clock, no lock, no I/O. What it decides, the session does.
//!
//! ```text
//! session    Open ── close, expired ──► Closing ── session ended ──► Closed
//!              └───────────┴─ warden lost, had a cell ──► Lost          (nothing starts outside Open)
//!
//! context                 ┌────────────── refused: the first that waits is settled ─┐
//!    (none) ── submit ──► Taking ── taken ──► Idle ── next ──► Running ── ended ──► Idle
//!      ▲                                       │                 │ ended with its state lost, stopped
//!      │                           reset, stopped                ▼
//!      └──── cell ended ◄──────────────────── Dying ◄────────────┘
//!                                              └─ no end in time: the execution is Lost, the cell is left behind
//! ```
//!
//! Executions of one context run one at a time in the order of their acceptance. A cell that left `Idle` for `Dying`
//! never runs again. Every accepted execution is settled exactly once; one that was handed to a dying cell is settled
//! when the cell has ended, because its counters are final only then.

use super::SessionState;
use crate::execution::ContextKey;
use anchorhold_jail::id::{CellId, ExecutionId};
use std::collections::VecDeque;

/// How many executions may wait in one context.
pub(crate) const WAITING_MAX: usize = 64;
/// How many contexts a session may have; each of them has a cell.
pub(crate) const CONTEXTS_MAX: usize = 64;

/// What the session has to do now, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Ask for a cell for this context; [`State::taken`] or [`State::take_failed`] follows.
    Take(ContextKey),
    /// Hand the execution to the cell.
    Run { cell: CellId, execution: ExecutionId },
    /// Tell the cell to end its execution.
    Interrupt { cell: CellId, execution: ExecutionId },
    /// Have the cell killed; [`State::cell_ended`] or [`State::give_up`] follows.
    Kill(CellId),
    /// Say what became of the execution.
    Settle { execution: ExecutionId, how: Settled },
}

/// Where an execution came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// In a cell that lives on.
    Ended,
    /// With its cell.
    Died,
    /// Before it reached a cell: cancelled, or the session was closed.
    Withdrawn,
    /// Before it reached a cell: there is none for it.
    Refused,
    /// Nobody knows.
    Lost,
}

/// Why an execution is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The session is not open.
    Closed,
    /// [`WAITING_MAX`] wait already.
    Busy,
    /// [`CONTEXTS_MAX`] contexts exist already.
    TooManyContexts,
}

#[derive(Debug)]
struct Waiting {
    execution: ExecutionId,
    /// The cell that is there when its turn comes is not for it.
    reset: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Empty,
    Taking,
    Idle(CellId),
    Running(CellId, ExecutionId),
    Dying(CellId, Option<ExecutionId>),
}

impl Slot {
    fn cell(self) -> Option<CellId> {
        match self {
            Self::Empty | Self::Taking => None,
            Self::Idle(cell) | Self::Running(cell, _) | Self::Dying(cell, _) => Some(cell),
        }
    }

    fn execution(self) -> Option<ExecutionId> {
        match self {
            Self::Running(_, execution) | Self::Dying(_, Some(execution)) => Some(execution),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Context {
    key: ContextKey,
    slot: Slot,
    waiting: VecDeque<Waiting>,
}

/// A session and its contexts.
#[derive(Debug)]
pub(crate) struct State {
    phase: SessionState,
    contexts: Vec<Context>,
}

impl State {
    pub(crate) fn new() -> Self {
        Self { phase: SessionState::Open, contexts: Vec::new() }
    }

    pub(crate) fn phase(&self) -> SessionState {
        self.phase
    }

    /// Each context: its name, cell, what runs in it, how many wait.
    pub(crate) fn contexts(
        &self,
    ) -> impl Iterator<Item = (&ContextKey, Option<CellId>, Option<ExecutionId>, usize)> {
        self.contexts.iter().map(|c| (&c.key, c.slot.cell(), c.slot.execution(), c.waiting.len()))
    }

    /// Accepts an execution, or says why not.
    pub(crate) fn submit(
        &mut self,
        execution: ExecutionId,
        key: &ContextKey,
        reset: bool,
    ) -> Result<Vec<Effect>, Denied> {
        if self.phase != SessionState::Open {
            return Err(Denied::Closed);
        }
        let index = match self.contexts.iter().position(|context| context.key == *key) {
            Some(index) if self.contexts[index].waiting.len() >= WAITING_MAX => return Err(Denied::Busy),
            Some(index) => index,
            None if self.contexts.len() >= CONTEXTS_MAX => return Err(Denied::TooManyContexts),
            None => {
                self.contexts.push(Context { key: key.clone(), slot: Slot::Empty, waiting: VecDeque::new() });
                self.contexts.len() - 1
            }
        };
        self.contexts[index].waiting.push_back(Waiting { execution, reset });
        let mut effects = Vec::new();
        self.advance(index, &mut effects);
        Ok(effects)
    }

    /// A context that another process left with this cell, perhaps with an execution running in it. `false`: the
    /// session is not open, or there is such a context already.
    pub(crate) fn adopt(&mut self, key: &ContextKey, cell: CellId, running: Option<ExecutionId>) -> bool {
        let fits = self.phase == SessionState::Open
            && self.contexts.len() < CONTEXTS_MAX
            && self.contexts.iter().all(|context| context.key != *key);
        if fits {
            let slot = running.map_or(Slot::Idle(cell), |execution| Slot::Running(cell, execution));
            self.contexts.push(Context { key: key.clone(), slot, waiting: VecDeque::new() });
        }
        fits
    }

    /// The cell that a context waited for. Killed when nobody waits for it any more.
    pub(crate) fn taken(&mut self, key: &ContextKey, cell: CellId) -> Vec<Effect> {
        let mut effects = Vec::new();
        match self.contexts.iter().position(|context| context.key == *key && context.slot == Slot::Taking) {
            Some(index) if self.phase == SessionState::Open => {
                self.contexts[index].slot = Slot::Idle(cell);
                if let Some(first) = self.contexts[index].waiting.front_mut() {
                    // Nothing ran in this cell, so nothing has to be reset.
                    first.reset = false;
                }
                self.advance(index, &mut effects);
            }
            Some(index) => {
                self.contexts[index].slot = Slot::Dying(cell, None);
                effects.push(Effect::Kill(cell));
            }
            None => effects.push(Effect::Kill(cell)),
        }
        effects
    }

    /// There is no cell for the context: the first that waits is refused, the next tries again.
    pub(crate) fn take_failed(&mut self, key: &ContextKey) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(index) = self.contexts.iter().position(|c| c.key == *key && c.slot == Slot::Taking) {
            self.contexts[index].slot = Slot::Empty;
            if let Some(first) = self.contexts[index].waiting.pop_front() {
                effects.push(Effect::Settle { execution: first.execution, how: Settled::Refused });
            }
            self.advance(index, &mut effects);
        }
        effects
    }

    /// The cell said that its execution ended. `None`: that one does not run there, the cell lies.
    pub(crate) fn ended(
        &mut self,
        cell: CellId,
        execution: ExecutionId,
        state_lost: bool,
    ) -> Option<Vec<Effect>> {
        let index =
            self.contexts.iter().position(|context| context.slot == Slot::Running(cell, execution))?;
        let mut effects = Vec::new();
        if state_lost {
            self.contexts[index].slot = Slot::Dying(cell, Some(execution));
            effects.push(Effect::Kill(cell));
        } else {
            self.contexts[index].slot = Slot::Idle(cell);
            effects.push(Effect::Settle { execution, how: Settled::Ended });
            self.advance(index, &mut effects);
        }
        Some(effects)
    }

    /// The cell must not go on (it broke the protocol, or an end that it was asked for did not come).
    pub(crate) fn stop(&mut self, cell: CellId) -> Vec<Effect> {
        let Some(context) = self.contexts.iter_mut().find(|context| context.slot.cell() == Some(cell)) else {
            return Vec::new();
        };
        match context.slot {
            Slot::Idle(_) => context.slot = Slot::Dying(cell, None),
            Slot::Running(_, execution) => context.slot = Slot::Dying(cell, Some(execution)),
            Slot::Empty | Slot::Taking | Slot::Dying(..) => return Vec::new(),
        }
        vec![Effect::Kill(cell)]
    }

    /// The cell of a context that lives.
    pub(crate) fn cell(&self, key: &ContextKey) -> Option<CellId> {
        let context = self.contexts.iter().find(|context| context.key == *key)?;
        match context.slot {
            Slot::Idle(cell) | Slot::Running(cell, _) => Some(cell),
            Slot::Empty | Slot::Taking | Slot::Dying(..) => None,
        }
    }

    /// What waits in a context is not to run.
    pub(crate) fn withdraw(&mut self, key: &ContextKey) -> Vec<Effect> {
        let Some(index) = self.contexts.iter().position(|context| context.key == *key) else {
            return Vec::new();
        };
        let waiting = std::mem::take(&mut self.contexts[index].waiting);
        let withdrawn = |w: Waiting| Effect::Settle { execution: w.execution, how: Settled::Withdrawn };
        let mut effects: Vec<Effect> = waiting.into_iter().map(withdrawn).collect();
        self.advance(index, &mut effects);
        effects
    }

    /// The warden says that the cell is gone.
    pub(crate) fn cell_ended(&mut self, cell: CellId) -> Vec<Effect> {
        self.leave(cell, Settled::Died)
    }

    /// The cell should be gone and nobody says so: it is left behind.
    pub(crate) fn give_up(&mut self, cell: CellId) -> Vec<Effect> {
        self.leave(cell, Settled::Lost)
    }

    fn leave(&mut self, cell: CellId, how: Settled) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(index) = self.contexts.iter().position(|context| context.slot.cell() == Some(cell)) {
            if let Some(execution) = self.contexts[index].slot.execution() {
                effects.push(Effect::Settle { execution, how });
            }
            self.contexts[index].slot = Slot::Empty;
            self.advance(index, &mut effects);
        }
        effects
    }

    /// Somebody wants the execution to end. `None`: it is not here.
    pub(crate) fn cancel(&mut self, execution: ExecutionId) -> Option<Vec<Effect>> {
        for index in 0..self.contexts.len() {
            let context = &mut self.contexts[index];
            match context.slot {
                Slot::Running(cell, running) if running == execution => {
                    return Some(vec![Effect::Interrupt { cell, execution }]);
                }
                Slot::Dying(_, Some(running)) if running == execution => return Some(Vec::new()),
                _ => {}
            }
            if let Some(place) = context.waiting.iter().position(|waiting| waiting.execution == execution) {
                context.waiting.remove(place);
                let mut effects = vec![Effect::Settle { execution, how: Settled::Withdrawn }];
                self.advance(index, &mut effects);
                return Some(effects);
            }
        }
        None
    }

    /// Nothing starts any more; what waits is withdrawn, what runs ends with its cell.
    pub(crate) fn close(&mut self) -> Vec<Effect> {
        if self.phase != SessionState::Open {
            return Vec::new();
        }
        self.phase = SessionState::Closing;
        let waiting = self.contexts.iter_mut().flat_map(|context| context.waiting.drain(..));
        waiting.map(|w| Effect::Settle { execution: w.execution, how: Settled::Withdrawn }).collect()
    }

    /// The warden says that the session is gone.
    pub(crate) fn session_ended(&mut self) -> Vec<Effect> {
        if matches!(self.phase, SessionState::Closed | SessionState::Lost) {
            return Vec::new();
        }
        let mut effects = self.close();
        self.abandon(SessionState::Closed, &mut effects);
        effects
    }

    /// The warden died. A session that had cells (`elsewhere`: others than those of its contexts) is lost with it.
    pub(crate) fn warden_lost(&mut self, elsewhere: bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        let had_cells = elsewhere || self.contexts.iter().any(|context| context.slot != Slot::Empty);
        match self.phase {
            SessionState::Closed | SessionState::Lost => return effects,
            SessionState::Open if !had_cells => return effects,
            SessionState::Open | SessionState::Closing => {}
        }
        self.abandon(SessionState::Lost, &mut effects);
        effects
    }

    fn abandon(&mut self, phase: SessionState, effects: &mut Vec<Effect>) {
        self.phase = phase;
        for context in self.contexts.drain(..) {
            let executions =
                context.slot.execution().into_iter().chain(context.waiting.iter().map(|w| w.execution));
            effects.extend(executions.map(|execution| Effect::Settle { execution, how: Settled::Lost }));
        }
    }

    /// Lets the context do what it can do next; forgets it when there is nothing left of it.
    fn advance(&mut self, index: usize, effects: &mut Vec<Effect>) {
        let context = &mut self.contexts[index];
        if context.slot == Slot::Empty && context.waiting.is_empty() {
            self.contexts.swap_remove(index);
            return;
        }
        if self.phase != SessionState::Open {
            return;
        }
        match (context.slot, context.waiting.front_mut()) {
            (Slot::Empty, Some(_)) => {
                context.slot = Slot::Taking;
                effects.push(Effect::Take(context.key.clone()));
            }
            (Slot::Idle(cell), Some(first)) if first.reset => {
                first.reset = false;
                context.slot = Slot::Dying(cell, None);
                effects.push(Effect::Kill(cell));
            }
            (Slot::Idle(cell), Some(first)) => {
                let execution = first.execution;
                context.waiting.pop_front();
                context.slot = Slot::Running(cell, execution);
                effects.push(Effect::Run { cell, execution });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
