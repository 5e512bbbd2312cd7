//! When and how a running execution is stopped.
//!
//! ```text
//! Running ──deadline, cancel, too much output──► Asked ──grace──► Doomed ──grace──► abandoned
//! ```
//!
//! *Asked*: the guest is interrupted at its next loop or call and keeps its state. *Doomed*: it is trapped there and
//! its state is lost. *Abandoned*: it sits in something without loops (a huge copy, a system call), so the receiving
//! thread ends the cell on its behalf. The warden's hard deadline stands behind all of it.
//!
//! The decisions are [`State`]'s, which knows no clock and no threads; [`Watch`] shares it.

use crate::life::lock;
use anchorhold_jail::hatch::{Execute, How};
use anchorhold_jail::id::ExecutionId;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long an interrupted guest has to come to its end, and a trapped one to reach a check.
pub const GRACE: Duration = Duration::from_millis(250);

/// An interrupt that did not end the program is repeated: it may have come before the program's first step, or a handler
/// that catches everything may have taken it.
const REPEAT: Duration = Duration::from_millis(100);

/// What the guest's thread does at a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Goes on.
    None,
    /// Interrupts the guest for this reason.
    Interrupt(How),
    /// Traps it.
    Trap,
}

/// What the receiving thread does now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tick {
    /// Something runs.
    pub running: bool,
    /// When to look again at the latest; `None` when nothing is to come.
    pub next: Option<Duration>,
    /// Make the guest look: advance the epoch.
    pub nudge: bool,
    /// End the cell for this execution.
    pub abandoned: Option<(ExecutionId, How, Duration)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Asked(How),
    Doomed(How),
}

#[derive(Debug)]
struct Run {
    execution: ExecutionId,
    phase: Phase,
    /// When the guest was last told.
    told: Option<Instant>,
    began: Instant,
    deadline: Instant,
}

/// At most one execution, and what is to become of it.
#[derive(Debug, Default)]
pub struct State {
    run: Option<Run>,
}

impl State {
    /// An execution begins its time. `false` when there is one already.
    pub fn begin(&mut self, execution: ExecutionId, timeout: Duration, now: Instant) -> bool {
        if self.run.is_some() {
            return false;
        }
        // A time that the clock cannot count to is as good as a day.
        let deadline = now.checked_add(timeout).unwrap_or(now + Duration::from_secs(86_400));
        self.run = Some(Run { execution, phase: Phase::Running, told: None, began: now, deadline });
        true
    }

    /// Asks the execution to stop, once. Whether it is now asked.
    pub fn ask(&mut self, execution: Option<ExecutionId>, how: How, now: Instant) -> bool {
        match &mut self.run {
            Some(run)
                if run.phase == Phase::Running
                    && execution.is_none_or(|execution| execution == run.execution) =>
            {
                run.phase = Phase::Asked(how);
                run.deadline = now + GRACE;
                true
            }
            _ => false,
        }
    }

    /// Moves on with time.
    pub fn tick(&mut self, now: Instant) -> Tick {
        let Some(run) = &mut self.run else { return Tick::default() };
        let late = now >= run.deadline;
        let mut tick = Tick { running: true, ..Tick::default() };
        match run.phase {
            Phase::Running if late => {
                run.phase = Phase::Asked(How::TimedOut);
                run.deadline = now + GRACE;
            }
            Phase::Asked(how) if late => {
                run.phase = Phase::Doomed(how);
                run.deadline = now + GRACE;
            }
            Phase::Doomed(how) if late => {
                tick.abandoned = Some((run.execution, how, now - run.began));
                self.run = None;
                return tick;
            }
            _ => {}
        }
        // Repeated: a nudge that comes while the guest's thread takes the one before it is swallowed.
        tick.nudge = matches!(run.phase, Phase::Doomed(_)) || run.is_to_be_told(now);
        tick.next = Some(run.deadline.saturating_duration_since(now));
        tick
    }

    /// What the guest's thread is to do.
    pub fn request(&mut self, now: Instant) -> Request {
        match &mut self.run {
            Some(Run { phase: Phase::Doomed(_), .. }) => Request::Trap,
            Some(run) if run.is_to_be_told(now) => {
                run.told = Some(now);
                run.reason().map_or(Request::None, Request::Interrupt)
            }
            _ => Request::None,
        }
    }

    /// The execution came to its end: what stopped it, if anything did. `None` when it was abandoned.
    pub fn finish(&mut self, trapped: bool) -> Option<Option<How>> {
        let run = self.run.take()?;
        // What ended before it was told ended by itself.
        Some(run.reason().filter(|_| run.told.is_some() || trapped))
    }
}

impl Run {
    fn reason(&self) -> Option<How> {
        match self.phase {
            Phase::Running => None,
            Phase::Asked(how) | Phase::Doomed(how) => Some(how),
        }
    }

    fn is_to_be_told(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Asked(_)) && self.told.is_none_or(|told| now >= told + REPEAT)
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: State,
    job: Option<Execute>,
}

/// [`State`], shared by the guest's thread and the receiving thread.
#[derive(Debug, Default)]
pub struct Watch {
    shared: Mutex<Shared>,
    wake: Condvar,
}

impl Watch {
    /// Hands an execution to the guest's thread; its time begins. `false` when one is running.
    pub fn offer(&self, job: Execute) -> bool {
        let mut shared = lock(&self.shared);
        let timeout = Duration::from_micros(job.timeout_us);
        if shared.job.is_some() || !shared.state.begin(job.execution, timeout, Instant::now()) {
            return false;
        }
        shared.job = Some(job);
        self.wake.notify_all();
        true
    }

    /// The next execution; waits for one.
    pub fn next(&self) -> Execute {
        let mut shared = lock(&self.shared);
        loop {
            if let Some(job) = shared.job.take() {
                return job;
            }
            shared = self.wake.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// See [`State::ask`]. A sleeping guest wakes; a busy one looks when the caller advances the epoch.
    pub fn ask(&self, execution: Option<ExecutionId>, how: How) -> bool {
        let asked = lock(&self.shared).state.ask(execution, how, Instant::now());
        if asked {
            self.wake.notify_all();
        }
        asked
    }

    /// See [`State::tick`].
    pub fn tick(&self) -> Tick {
        let tick = lock(&self.shared).state.tick(Instant::now());
        if tick.nudge {
            self.wake.notify_all();
        }
        tick
    }

    /// See [`State::request`].
    pub fn request(&self) -> Request {
        lock(&self.shared).state.request(Instant::now())
    }

    /// Whether the guest is to be trapped: for host calls that take long.
    pub fn is_doomed(&self) -> bool {
        lock(&self.shared).state.run.as_ref().is_some_and(|run| matches!(run.phase, Phase::Doomed(_)))
    }

    /// Whether the execution is to stop, or there is none.
    pub fn is_stopping(&self) -> bool {
        lock(&self.shared).state.run.as_ref().is_none_or(|run| run.phase != Phase::Running)
    }

    /// See [`State::finish`]. An abandoned execution's thread stays here: the cell is ending.
    pub fn finish(&self, trapped: bool) -> Option<How> {
        let finished = lock(&self.shared).state.finish(trapped);
        match finished {
            Some(how) => how,
            None => loop {
                std::thread::park();
            },
        }
    }

    /// Sleeps on the guest's behalf until `end`, or until the execution is to stop.
    pub fn sleep_until(&self, end: Instant) {
        let mut shared = lock(&self.shared);
        loop {
            let stopping = shared.state.run.as_ref().is_none_or(|run| run.phase != Phase::Running);
            let left = end.saturating_duration_since(Instant::now());
            if stopping || left.is_zero() {
                return;
            }
            shared = self.wake.wait_timeout(shared, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn running() -> (State, ExecutionId, Instant) {
        let (mut state, id, now) = (State::default(), ExecutionId::random(), Instant::now());
        assert!(state.begin(id, SECOND, now));
        (state, id, now)
    }

    #[test]
    fn a_deadline_asks_then_dooms_then_abandons() {
        let (mut state, id, now) = running();
        assert_eq!(state.tick(now), Tick { running: true, next: Some(SECOND), ..Tick::default() });
        assert_eq!(state.request(now), Request::None);
        let late = now + SECOND;
        assert!(state.tick(late).nudge);
        assert_eq!(state.request(late), Request::Interrupt(How::TimedOut));
        assert_eq!(state.request(late), Request::None, "told");
        assert!(!state.tick(late).nudge, "nothing to tell");
        assert!(state.tick(late + REPEAT).nudge);
        assert_eq!(state.request(late + REPEAT), Request::Interrupt(How::TimedOut), "told again");
        assert!(state.tick(late + GRACE).nudge);
        assert_eq!(state.request(late + GRACE), Request::Trap);
        let tick = state.tick(now + SECOND + 2 * GRACE);
        assert_eq!(tick.abandoned, Some((id, How::TimedOut, SECOND + 2 * GRACE)));
        assert_eq!(state.finish(true), None);
    }

    #[test]
    fn only_the_running_execution_is_cancelled_and_the_first_reason_stays() {
        let (mut state, id, now) = running();
        assert!(!state.ask(Some(ExecutionId::random()), How::Cancelled, now));
        assert!(state.ask(Some(id), How::Cancelled, now));
        assert!(!state.ask(Some(id), How::OutputExceeded, now));
        assert_eq!(state.request(now), Request::Interrupt(How::Cancelled));
        assert_eq!(state.finish(false), Some(Some(How::Cancelled)));
        assert!(!state.ask(Some(id), How::Cancelled, now));
    }

    #[test]
    fn what_ends_before_it_was_told_ended_by_itself() {
        let (mut state, id, now) = running();
        assert!(state.ask(Some(id), How::Cancelled, now));
        assert_eq!(state.finish(false), Some(None));
    }

    #[test]
    fn one_at_a_time_and_times_without_end_are_bounded() {
        let (mut state, _, now) = running();
        assert!(!state.begin(ExecutionId::random(), SECOND, now));
        let mut state = State::default();
        assert!(state.begin(ExecutionId::random(), Duration::from_micros(u64::MAX), now));
        assert!(state.tick(now).next > Some(SECOND));
    }
}
