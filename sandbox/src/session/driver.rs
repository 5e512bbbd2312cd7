//! What a session knows, and how it does what its state machine decided.

use super::Inner;
use super::cell::{Cell, Held, Run, Standby, Watching, boottime_in};
use super::state::{Denied, Effect, Settled, State};
use crate::channel::{More, Received};
use crate::error::Error;
use crate::execution::{
    Breach, Capture, Collector, ContextKey, Finished, Limit, Outcome, Stop, Verdict, judge_died, judge_ended,
};
use crate::feed::{Feed, Follower};
use crate::files::Desk;
use crate::quota::Counted;
use crate::sandbox::{Hub, Wanted};
use crate::session::{SessionSpec, SessionState};
use crate::usage::{Accounted, Meter, Usage, mib_ms, us_between};
use anchorhold_jail::control::{Boottime, Cause, Interpreter, Take, ToWarden, Tombstone};
use anchorhold_jail::counters::Reading;
use anchorhold_jail::egress::Network;
use anchorhold_jail::hatch::{Ended, FromCell, How, INPUT_BYTES_MAX, ToCell};
use anchorhold_jail::id::{CellId, ExecutionId};
use anchorhold_jail::packet::{PacketError, Packets};
use anchorhold_jail::walls::Walls;
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// From an execution's timeout to the warden's SIGKILL, in microseconds: the cell interrupts and traps before.
const HARD_GRACE_US: u64 = 1_000_000;
/// How long a killed cell, or one past its hard deadline, may take to be reported gone.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// How long a cell may take to end an execution that was cancelled.
const CANCEL_GRACE: Duration = Duration::from_secs(1);
/// How long the warden may take to say why a cell closed its hatch, before we have it killed.
const HANG_UP_GRACE: Duration = Duration::from_millis(500);
/// How often the CPU of an execution is looked at that may use less of it than its time allows.
const CPU_LOOK_EVERY: Duration = Duration::from_millis(20);
/// After so long it is looked again whether what a cell says still has to wait.
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// Packets that a dead cell can have left in its hatch.
const LAST_WORDS_MAX: u32 = 100_000;
/// Results that are kept for callers who are gone.
const UNCLAIMED_MAX: usize = 256;

impl From<Denied> for Error {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Closed => Self::Closed,
            Denied::Busy => Self::ContextBusy,
            Denied::TooManyContexts => Self::Capacity("the session has too many contexts".to_owned()),
        }
    }
}

/// An execution that was accepted and is not settled.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) context: ContextKey,
    /// What its cell is told, and given; until it was.
    pub(super) packets: Option<(Packets, Vec<OwnedFd>)>,
    pub(super) timeout_us: u64,
    pub(super) accepted: Instant,
    /// Where it runs.
    pub(super) cell: Option<CellId>,
    pub(super) reply: oneshot::Sender<Result<Finished, Error>>,
    /// What it says.
    pub(super) feed: Feed,
}

/// What a session knows.
#[derive(Debug)]
pub(crate) struct Core {
    pub(super) state: State,
    pub(super) jobs: HashMap<ExecutionId, Job>,
    pub(super) cells: HashMap<CellId, Held>,
    /// Results whose caller was gone.
    pub(super) unclaimed: HashMap<ExecutionId, Finished>,
    /// Where settled executions ran that nobody acknowledged; of living cells only.
    settled: HashMap<ExecutionId, CellId>,
    pub(super) walls: Option<Walls>,
    pub(super) expires_at: Boottime,
    /// What it may reach.
    pub(super) network: Network,
    /// The warden may know this session.
    pub(super) touched: bool,
    pub(crate) desk: Desk,
    /// Why the take failed that is being dealt with.
    refusal: Option<Error>,
}

impl Core {
    pub(super) fn new(spec: &SessionSpec, touched: bool) -> Self {
        Self {
            state: State::new(),
            jobs: HashMap::new(),
            cells: HashMap::new(),
            unclaimed: HashMap::new(),
            settled: HashMap::new(),
            walls: None,
            expires_at: spec.expires_at,
            network: spec.network.clone(),
            touched,
            desk: Desk::default(),
            refusal: None,
        }
    }

    pub(crate) fn phase(&self) -> SessionState {
        self.state.phase()
    }

    /// Whether an execution of this name is accepted and not acknowledged.
    pub(super) fn knows(&self, id: ExecutionId) -> bool {
        self.jobs.contains_key(&id) || self.unclaimed.contains_key(&id) || self.settled.contains_key(&id)
    }

    /// Does what the state machine decided.
    pub(super) fn apply(&mut self, inner: &Arc<Inner>, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Take(key) => {
                    if let Err(error) = self.take(inner, Wanted::Context(key.clone())) {
                        self.refusal = Some(error);
                        effects.extend(self.state.take_failed(&key));
                    }
                }
                Effect::Run { cell, execution } => self.start(inner, cell, execution),
                Effect::Interrupt { cell, execution } => self.interrupt(cell, execution),
                Effect::Kill(cell) => self.kill(&inner.hub, cell),
                Effect::Settle { execution, how } => self.settle(inner, execution, how),
            }
        }
    }

    /// Asks the warden for a cell.
    pub(crate) fn take(&mut self, inner: &Arc<Inner>, wanted: Wanted) -> Result<(), Error> {
        let (image, interpreter) = match &wanted {
            Wanted::Context(key) => (Some(key.image), key.interpreter),
            Wanted::Files => (None, Interpreter::Own),
        };
        let spec = &inner.spec;
        let take = Take {
            tag: 0,
            session: spec.id,
            group: spec.group,
            image,
            interpreter,
            limits: spec.limits.of_cells(),
            env: spec.env.clone(),
            network: self.network.clone(),
            window: spec.window,
            expires_at: self.expires_at,
        };
        self.touched = true;
        inner.hub.take(take, wanted, inner)
    }

    pub(super) fn take_failed(&mut self, inner: &Arc<Inner>, wanted: &Wanted, why: Error) {
        match wanted {
            Wanted::Context(key) => {
                self.refusal = Some(why);
                let effects = self.state.take_failed(key);
                self.apply(inner, effects);
            }
            Wanted::Files => self.desk.take_failed(&why),
        }
    }

    /// A cell is ours from now on.
    pub(super) fn hold(
        &mut self,
        cell: &Arc<Cell>,
        base_us: u64,
        accounted: Accounted,
        counted: Vec<Counted>,
    ) -> &mut Held {
        let held = Held::new(Arc::clone(cell), Meter::new(base_us, accounted), counted);
        self.cells.entry(cell.id).insert_entry(held).into_mut()
    }

    pub(super) fn files_taken(&mut self, hub: &Hub, cell: Arc<Cell>) -> Vec<Effect> {
        if self.state.phase() == SessionState::Open {
            self.desk.taken(cell);
        } else {
            self.kill(hub, cell.id);
        }
        Vec::new()
    }

    fn start(&mut self, inner: &Arc<Inner>, cell: CellId, execution: ExecutionId) {
        let (Some(job), Some(held)) = (self.jobs.get_mut(&execution), self.cells.get_mut(&cell)) else {
            return;
        };
        let Some((packets, descriptors)) = job.packets.take() else { return };
        wake(inner, held);
        // Before the cell is told: it may grow at once, and would pay for what it did not have yet. Read for its first
        // execution only.
        let memory_start_bytes = Some(held.meter.memory_at_start(&held.cell.counters));
        let started = Instant::now();
        let hard_us = job.timeout_us.saturating_add(HARD_GRACE_US);
        inner.hub.tell(&ToWarden::Arm { cell, execution, at: boottime_in(hard_us) });
        held.cell.send(packets, descriptors);
        job.cell = Some(cell);
        let limits = &inner.spec.limits;
        held.runs.push(Run {
            id: execution,
            collector: Collector::new(limits.output_bytes, job.feed.clone()),
            started,
            memory_start_bytes,
            stop: None,
            ended: None,
            input_bytes: 0,
            reading: None,
            adopted: false,
        });
        held.lost_at = started.checked_add(Duration::from_micros(hard_us)).map(|hard| hard + LOST_AFTER);
        if u128::from(limits.cpu_us) * 1000 < u128::from(job.timeout_us) * u128::from(limits.cpu_millicores) {
            let ceiling = held.meter.counter_after(limits.cpu_us);
            inner.hub.spawn(guard_cpu(Arc::clone(inner), Arc::clone(&held.cell), execution, ceiling));
        }
    }

    fn interrupt(&mut self, cell: CellId, execution: ExecutionId) {
        if let Some(held) = self.cells.get_mut(&cell) {
            held.cell.say(&ToCell::Cancel { execution });
            held.kill_by(Instant::now() + CANCEL_GRACE);
        }
    }

    /// Has a cell killed; [`Core::cell_ended`] or the watch follows.
    pub(super) fn kill(&mut self, hub: &Hub, cell: CellId) {
        hub.tell(&ToWarden::Kill { cell });
        if let Some(held) = self.cells.get_mut(&cell) {
            held.counted.clear();
            held.kill_at = None;
            held.lost_by(Instant::now() + LOST_AFTER);
        }
    }

    /// Ends an execution, on behalf of `stop`. `false`: it is not here.
    pub(super) fn cancel(&mut self, inner: &Arc<Inner>, id: ExecutionId, stop: Stop) -> bool {
        let Some(effects) = self.state.cancel(id) else { return false };
        for run in self.cells.values_mut().filter_map(|held| held.run(id)) {
            run.stop_for(stop);
        }
        self.apply(inner, effects);
        true
    }

    /// Where an execution runs.
    pub(super) fn cell_of(&self, id: ExecutionId) -> Option<CellId> {
        self.jobs.get(&id)?.cell
    }

    /// Lets somebody converse with the cell of a context.
    pub(super) fn watching(
        &mut self,
        inner: &Inner,
        context: &ContextKey,
        packets: Packets,
        wires: Vec<OwnedFd>,
    ) -> Option<Watching> {
        let held = self.cells.get_mut(&self.state.cell(context)?)?;
        let watching = held.standby.as_ref()?.watch();
        wake(inner, held);
        held.cell.send(packets, wires);
        Some(watching)
    }

    /// Freezes browsers that nobody uses.
    fn rest(&mut self, inner: &Inner, now: Instant) {
        let Some(after) = inner.spec.standby_after else { return };
        for held in self.cells.values_mut() {
            let runs = held.attaching.is_some() || held.runs.iter().any(|run| run.ended.is_none());
            if held.standby.as_mut().is_some_and(|standby| standby.is_due(runs, after, now)) {
                inner.hub.tell(&ToWarden::Freeze { cell: held.cell.id, frozen: true });
            }
        }
    }

    /// Ends the interpreter of a context. `false`: it has none.
    pub(super) fn restart(&mut self, inner: &Arc<Inner>, context: &ContextKey) -> bool {
        let Some(cell) = self.state.cell(context) else { return false };
        if let Some(held) = self.cells.get_mut(&cell) {
            held.runs.iter_mut().for_each(|run| run.stop_for(Stop::Cancelled));
        }
        self.stop(inner, cell);
        true
    }

    /// What an execution says, from its acceptance to its end.
    pub(super) fn follow(&self, id: ExecutionId) -> Option<Follower> {
        let mut runs = self.cells.values().flat_map(|held| &held.runs);
        let running = runs.find(|run| run.id == id).map(|run| run.collector.feed());
        running.or_else(|| self.jobs.get(&id).map(|job| &job.feed)).map(Feed::follow)
    }

    /// More input for what runs. `false`: it does not run.
    pub(super) fn input(&mut self, execution: ExecutionId, bytes: Vec<u8>, end: bool) -> Result<bool, Error> {
        let mut held = self.cells.values_mut();
        let its = held.find_map(|held| {
            let cell = Arc::clone(&held.cell);
            held.run(execution).filter(|run| run.ended.is_none()).map(|run| (cell, run))
        });
        let Some((cell, run)) = its else { return Ok(false) };
        run.input_bytes = run
            .input_bytes
            .checked_add(bytes.len())
            .filter(|all| *all <= INPUT_BYTES_MAX)
            .ok_or(Error::TooLarge)?;
        cell.say(&ToCell::Input { execution, bytes, end });
        Ok(true)
    }

    /// All executions end now, on behalf of `stop`.
    pub(super) fn stop_all(&mut self, stop: Stop) {
        for run in self.cells.values_mut().flat_map(|held| &mut held.runs) {
            run.stop_for(stop);
        }
    }

    /// How long what a cell says is to wait because its group said much. What should have ended by now is heard at once, and
    /// does not count, so that it is not taken for one that does not end.
    pub(super) fn pause(&self, inner: &Inner, cell: CellId) -> Option<Duration> {
        let flow = &inner.spec.allowance.said;
        self.runs_in_time(cell).then(|| flow.wait(Instant::now())).flatten().map(|wait| wait.min(PAUSE_MAX))
    }

    /// The cell said so much of what a program says.
    fn count(&self, inner: &Inner, cell: CellId, bytes: usize) {
        if self.runs_in_time(cell) {
            inner.spec.allowance.said.add(bytes, Instant::now());
        }
    }

    /// Whether something runs in a cell, and nothing that should have ended by now.
    fn runs_in_time(&self, cell: CellId) -> bool {
        let Some(held) = self.cells.get(&cell) else { return false };
        let mut running = held.runs.iter().filter(|run| run.ended.is_none()).peekable();
        running.peek().is_some()
            && running.all(|run| {
                let timeout_us = self.jobs.get(&run.id).map_or(0, |job| job.timeout_us);
                run.stop.is_none() && run.started.elapsed() < Duration::from_micros(timeout_us)
            })
    }

    /// Reads at most so many packets of what the cell says.
    pub(super) fn read(
        &mut self,
        inner: &Arc<Inner>,
        cell: &Cell,
        packets: u32,
    ) -> Result<More, PacketError> {
        for _ in 0..packets {
            match cell.channel.look() {
                Ok(Received::Nothing) => return Ok(More::Nothing),
                Ok(Received::Part) => {}
                Ok(Received::Message(message, descriptors)) if descriptors.is_empty() => {
                    let last = matches!(message, FromCell::Ended(_));
                    self.heard(inner, cell, message).map_err(|Breach(why)| PacketError::Malformed(why))?;
                    if last {
                        cell.channel.forget_part();
                    }
                }
                Ok(Received::Message(..)) => return Err(PacketError::Malformed("descriptors")),
                // The other process may have read the beginning of it.
                Err(PacketError::Malformed(_)) if self.attaching(cell.id).is_some() => {
                    cell.channel.forget_part()
                }
                Err(error) => return Err(error),
            }
        }
        Ok(More::Now)
    }

    fn attaching(&self, cell: CellId) -> Option<u64> {
        self.cells.get(&cell)?.attaching
    }

    /// The cell said something.
    fn heard(&mut self, inner: &Arc<Inner>, cell: &Cell, message: FromCell) -> Result<(), Breach> {
        if let Some(awaited) = self.attaching(cell.id) {
            return match message {
                FromCell::Attached { generation, executions } if generation == awaited => {
                    self.attached(inner, cell.id, &executions)
                }
                // Said to another process.
                _ => Ok(()),
            };
        }
        match message {
            FromCell::Output { execution, stream, bytes } => {
                let collector = self.collector(cell.id, execution)?;
                let said = collector.map_or(Ok(bytes.len()), |collector| collector.output(stream, &bytes))?;
                self.count(inner, cell.id, said);
                Ok(())
            }
            FromCell::Value { execution, json } => {
                self.count(inner, cell.id, json.len());
                self.collector(cell.id, execution)?.map_or(Ok(()), |collector| collector.value(json))
            }
            FromCell::Ended(ended) => self.ended(inner, cell, ended),
            FromCell::File { operation, answer } => self.desk.answered(cell.id, operation, answer),
            FromCell::Prepared
            | FromCell::Ready(_)
            | FromCell::Refused { .. }
            | FromCell::Attached { .. } => Err(Breach("a message out of turn")),
        }
    }

    /// Where to put what a cell says of an execution; `None` when nobody wants it any more.
    fn collector(&mut self, cell: CellId, execution: ExecutionId) -> Result<Option<&mut Collector>, Breach> {
        let Some(held) = self.cells.get_mut(&cell).filter(|held| held.is_heard()) else { return Ok(None) };
        match held.run(execution) {
            Some(run) if run.ended.is_none() => Ok(Some(&mut run.collector)),
            _ => Err(Breach("a word on what does not run")),
        }
    }

    /// The cell says that an execution ended.
    fn ended(&mut self, inner: &Arc<Inner>, cell: &Cell, ended: Ended) -> Result<(), Breach> {
        let Some(held) = self.cells.get_mut(&cell.id).filter(|held| held.is_heard()) else { return Ok(()) };
        let (nameless, dead) = (held.nameless, held.tombstone.is_some());
        let Some(run) = held.run(ended.execution).filter(|run| run.ended.is_none()) else {
            return Err(Breach("an end of what does not run"));
        };
        if ended.how == How::Cancelled && run.stop.is_none() {
            return Err(Breach("cancelled, by nobody"));
        }
        run.reading = cell.counters.read().ok();
        // Without counters the cell is gone already: its tombstone has the numbers.
        let state_lost = ended.state_lost || ended.how == How::Crashed || run.reading.is_none() || dead;
        let (id, adopted) = (ended.execution, run.adopted);
        run.ended = Some(ended);
        let job = self.jobs.get(&id);
        let single =
            |job: &Job| matches!(job.context.interpreter, Interpreter::Command | Interpreter::Terminal);
        if state_lost || job.is_some_and(single) {
            // It ends by itself, in a moment.
            held.counted.clear();
        }
        if nameless {
            return Ok(());
        }
        match self.state.ended(cell.id, id, state_lost) {
            Some(effects) => self.apply(inner, effects),
            None if adopted && self.state.contexts().all(|(_, _, running, _)| running != Some(id)) => {
                self.settle(inner, id, Settled::Ended);
            }
            // It is being killed and was too late.
            None => {}
        }
        Ok(())
    }

    /// The cell must not go on.
    pub(super) fn breach(&mut self, inner: &Arc<Inner>, cell: CellId) {
        if let Some(held) = self.cells.get_mut(&cell) {
            held.distrusted = true;
            held.runs.iter_mut().for_each(|run| run.stop_for(Stop::Breach));
            held.mark_attached(inner);
            self.stop(inner, cell);
        }
    }

    pub(super) fn stop(&mut self, inner: &Arc<Inner>, cell: CellId) {
        self.desk.lose(cell, &Error::Lost);
        let effects = self.state.stop(cell);
        if effects.is_empty() {
            self.kill(&inner.hub, cell);
        }
        self.apply(inner, effects);
    }

    pub(super) fn hung_up(&mut self, inner: &Inner, cell: CellId) {
        if let Some(held) = self.cells.get_mut(&cell) {
            held.mark_attached(inner);
            held.kill_by(Instant::now() + HANG_UP_GRACE);
        }
    }

    /// A cell is gone. What of its CPU belongs to no execution; `None` when it is not ours.
    pub(super) fn cell_ended(&mut self, inner: &Arc<Inner>, tombstone: &Tombstone) -> Option<u64> {
        let held = self.cells.get_mut(&tombstone.cell)?;
        held.tombstone = Some(tombstone.clone());
        let cell = Arc::clone(&held.cell);
        cell.gone.cancel();
        // The warden was quicker than its last words; they are few, and no more follow.
        if let Err(PacketError::Malformed(why)) = self.read(inner, &cell, LAST_WORDS_MAX) {
            tracing::debug!(cell = %cell.id, why, "the last words of a cell");
        }
        self.cells.get_mut(&tombstone.cell)?.mark_attached(inner);
        if tombstone.cause == Cause::Expired {
            let effects = self.state.close();
            self.apply(inner, effects);
        }
        let effects = self.state.cell_ended(tombstone.cell);
        self.apply(inner, effects);
        // What an adopted cell ran before and somebody claimed.
        let rest: Vec<_> = self.cells.get(&tombstone.cell)?.runs.iter().map(|run| run.id).collect();
        rest.into_iter().for_each(|id| self.settle(inner, id, Settled::Died));
        let out_of_memory = tombstone.cause == Cause::OutOfMemory || tombstone.oom_kills > 0;
        self.desk.cell_gone(tombstone.cell, out_of_memory);
        let mut held = self.cells.remove(&tombstone.cell)?;
        self.settled.retain(|_, cell| *cell != tombstone.cell);
        let standing = held.meter.account(tombstone.cpu_us);
        Some(if held.written_off { 0 } else { standing })
    }

    /// Says what became of an execution.
    pub(super) fn settle(&mut self, inner: &Arc<Inner>, id: ExecutionId, how: Settled) {
        let Some(job) = self.jobs.remove(&id) else { return };
        let result = match how {
            Settled::Withdrawn => Ok(withdrawn(&job)),
            Settled::Refused => Err(self.refusal.clone().unwrap_or(Error::Unavailable)),
            Settled::Lost => self.write_off(&job),
            Settled::Ended | Settled::Died => self.conclude(inner, id, &job),
        };
        if let (Ok(_), Settled::Ended, Some(cell)) = (&result, how, job.cell) {
            self.settled.insert(id, cell);
        }
        // Also of one that has no result.
        job.feed.end();
        if let Err(Ok(finished)) = job.reply.send(result) {
            self.keep(id, finished);
        }
    }

    /// Keeps a result for whoever asks for it later.
    pub(super) fn keep(&mut self, id: ExecutionId, finished: Finished) {
        if self.unclaimed.len() < UNCLAIMED_MAX {
            self.unclaimed.insert(id, finished);
        } else {
            tracing::error!(execution = %id, "a result is dropped: nobody fetches those before");
        }
    }

    /// What is known of an execution that ran is not known well enough.
    fn write_off(&mut self, job: &Job) -> Result<Finished, Error> {
        if let Some(held) = job.cell.and_then(|cell| self.cells.get_mut(&cell)) {
            held.written_off = true;
        }
        Err(Error::Lost)
    }

    /// The result of an execution that ended, from its cell's counters or its tombstone.
    fn conclude(&mut self, inner: &Arc<Inner>, id: ExecutionId, job: &Job) -> Result<Finished, Error> {
        let held = job.cell.and_then(|cell| self.cells.get_mut(&cell)).ok_or(Error::Lost)?;
        let place = held.runs.iter().position(|run| run.id == id).ok_or(Error::Lost)?;
        let run = held.runs.remove(place);
        let (verdict, usage) = match &held.tombstone {
            Some(tombstone) => {
                let tombstone = tombstone.clone();
                run.died(&tombstone, &mut held.meter, inner.spec.limits.execution_us)
            }
            None => {
                // An adopted cell may run another one, to which its deadlines belong.
                if held.runs.iter().all(|other| other.ended.is_some()) {
                    inner.hub.tell(&ToWarden::Disarm { cell: held.cell.id });
                    (held.kill_at, held.lost_at) = (None, None);
                }
                run.lived(held, inner.spec.limits.execution_us)
            }
        }
        .inspect_err(|_| held.written_off = true)?;
        let queued_us = if run.adopted { 0 } else { us_between(job.accepted, run.started) };
        let limits_hit = limits_hit(&verdict, run.collector.dropped_values());
        let (stdout, stderr, values, pieces) = run.collector.finish(run.ended.as_ref());
        Ok(Finished {
            outcome: verdict.outcome,
            stdout,
            stderr,
            values,
            pieces,
            error: verdict.error,
            exit_code: verdict.exit_code,
            limits_hit,
            state_lost: verdict.state_lost,
            usage: Usage { queued_us, ..usage },
            taking: held.taking.take(),
            cell: job.cell,
            context: job.context.clone(),
            accounted: held.meter.accounted(),
        })
    }

    /// The result is stored.
    pub(super) fn acknowledge(&mut self, id: ExecutionId) {
        self.unclaimed.remove(&id);
        let cell = match self.settled.remove(&id) {
            Some(cell) => self.cells.get(&cell).map(|held| Arc::clone(&held.cell)),
            None => self.forget_adopted(id),
        };
        if let Some(cell) = cell {
            cell.say(&ToCell::Acknowledge { execution: id });
        }
    }

    /// An adopted cell's execution that was recorded by another process.
    fn forget_adopted(&mut self, id: ExecutionId) -> Option<Arc<Cell>> {
        let known = self.jobs.contains_key(&id);
        let over = |run: &Run| run.id == id && run.adopted && run.ended.is_some() && !known;
        let held = self.cells.values_mut().find(|held| held.runs.iter().any(over))?;
        held.runs.retain(|run| !over(run));
        Some(Arc::clone(&held.cell))
    }

    /// Kills and leaves behind what is over its time.
    pub(super) fn watch(&mut self, inner: &Arc<Inner>, now: Instant) {
        self.rest(inner, now);
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let kill: Vec<_> =
            self.cells.values().filter(|held| due(held.kill_at)).map(|held| held.cell.id).collect();
        let leave: Vec<_> =
            self.cells.values().filter(|held| due(held.lost_at)).map(|held| held.cell.id).collect();
        for cell in kill {
            self.stop(inner, cell);
        }
        for cell in leave {
            tracing::error!(session = %inner.spec.id, %cell, "a cell does not end");
            self.kill(&inner.hub, cell);
            if let Some(held) = self.cells.get_mut(&cell) {
                held.lost_at = None;
            }
            self.desk.lose(cell, &Error::Lost);
            let effects = self.state.give_up(cell);
            self.apply(inner, effects);
        }
        if let Some(cell) = self.desk.overdue(now) {
            tracing::warn!(session = %inner.spec.id, %cell, "a files cell does not answer and is killed");
            self.stop(inner, cell);
        }
    }

    /// The session is over: its cells are gone, or nobody will say when they are.
    pub(super) fn drop_cells(&mut self) {
        for (_, held) in self.cells.drain() {
            held.cell.gone.cancel();
        }
        self.settled.clear();
    }

    /// Whether the execution runs and nobody stopped it.
    fn runs(&self, cell: CellId, execution: ExecutionId) -> bool {
        let runs = self.cells.get(&cell).map_or(&[][..], |held| &held.runs);
        runs.iter().any(|run| run.id == execution && run.stop.is_none() && run.ended.is_none())
    }
}

impl Run {
    fn stop_for(&mut self, stop: Stop) {
        if matches!(self.stop, None | Some(Stop::Unknown)) {
            self.stop = Some(stop);
        }
    }

    fn wall_us(&self, execution_us: u64) -> u64 {
        match &self.ended {
            // Nobody here saw it start.
            Some(ended) if self.adopted => ended.wall_us.min(execution_us),
            _ => us_between(self.started, Instant::now()),
        }
    }

    fn usage(&self, cpu_us: u64, memory_end_bytes: u64, memory_peak_bytes: u64, execution_us: u64) -> Usage {
        let wall_us = self.wall_us(execution_us);
        let memory_mib_ms =
            mib_ms(self.memory_start_bytes.unwrap_or(memory_end_bytes), memory_end_bytes, wall_us);
        Usage { wall_us, cpu_us, memory_peak_bytes, memory_mib_ms, ..Usage::default() }
    }

    /// Verdict and usage when its cell lives on.
    fn lived(&self, held: &mut Held, execution_us: u64) -> Result<(Verdict, Usage), Error> {
        let reading: Reading = self.reading.or_else(|| held.cell.counters.read().ok()).ok_or(Error::Lost)?;
        let ended = self.ended.as_ref().ok_or(Error::Lost)?;
        let (cpu_us, oom_killed) = held.meter.read(&reading);
        let egress_bytes = held.meter.account_bytes(held.cell.egress_bytes());
        let usage = self.usage(cpu_us, reading.memory_bytes, reading.memory_peak_bytes, execution_us);
        Ok((judge_ended(ended, self.stop, oom_killed), Usage { egress_bytes, ..usage }))
    }

    /// Verdict and usage when its cell died.
    fn died(
        &self,
        tombstone: &Tombstone,
        meter: &mut Meter,
        execution_us: u64,
    ) -> Result<(Verdict, Usage), Error> {
        let oom_killed = tombstone.oom_kills > 0;
        let verdict = match &self.ended {
            Some(ended) => Verdict { state_lost: true, ..judge_ended(ended, self.stop, oom_killed) },
            None => judge_died(self.id, tombstone.cause, self.stop, oom_killed)?,
        };
        let cpu_us = meter.account(tombstone.cpu_us);
        let egress_bytes = meter.account_bytes(tombstone.traffic.sum_bytes());
        let peak_bytes = tombstone.memory_peak_bytes;
        let usage = self.usage(cpu_us, peak_bytes, peak_bytes, execution_us);
        Ok((verdict, Usage { egress_bytes, ..usage }))
    }
}

/// A cell is about to be told something that it must hear now.
fn wake(inner: &Inner, held: &mut Held) {
    if held.standby.as_mut().is_some_and(Standby::wake) {
        inner.hub.tell(&ToWarden::Freeze { cell: held.cell.id, frozen: false });
    }
}

fn limits_hit(verdict: &Verdict, dropped_values: bool) -> Vec<Limit> {
    let mut hit = Vec::new();
    if verdict.memory_hit && verdict.outcome != Outcome::Exceeded(Limit::Memory) {
        hit.push(Limit::Memory);
    }
    if dropped_values && verdict.outcome != Outcome::Exceeded(Limit::Output) {
        hit.push(Limit::Output);
    }
    hit
}

/// The result of an execution that never reached a cell.
fn withdrawn(job: &Job) -> Finished {
    Finished {
        outcome: Outcome::Cancelled,
        stdout: Capture::default(),
        stderr: Capture::default(),
        values: Vec::new(),
        pieces: Vec::new(),
        error: None,
        exit_code: None,
        limits_hit: Vec::new(),
        state_lost: false,
        usage: Usage { queued_us: us_between(job.accepted, Instant::now()), ..Usage::default() },
        taking: None,
        cell: None,
        context: job.context.clone(),
        accounted: Accounted::default(),
    }
}

/// Ends an execution when its cell's counter reaches `ceiling_us`.
async fn guard_cpu(inner: Arc<Inner>, cell: Arc<Cell>, execution: ExecutionId, ceiling_us: u64) {
    let mut looks = tokio::time::interval(CPU_LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Ok(used_us) = cell.counters.cpu_us() else { return };
        let over = inner.with_core(|core| {
            let runs = core.runs(cell.id, execution);
            if runs && used_us >= ceiling_us {
                core.cancel(&inner, execution, Stop::Cpu);
            }
            !runs || used_us >= ceiling_us
        });
        if over {
            return;
        }
    }
}
