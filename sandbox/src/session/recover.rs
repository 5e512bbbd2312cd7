//! After a restart of the API: cells that another process of it left behind.
//!
//! Each such cell is told to repeat what was not acknowledged. Which context it belongs to only the ledger knows:
//! it names the cell ([`crate::Sandbox::adopt`]) or an execution that the cell knows ([`Session::recover`]). Until
//! then the cell is *nameless*: what it says is collected, and nothing is given to it.

use super::cell::{self, Run};
use super::driver::{Core, Job};
use super::state::Settled;
use super::{Given, Inner, Session, Ticket};
use crate::channel::locked;
use crate::error::Error;
use crate::execution::{Breach, Capture, Collector, ContextKey, Finished, Outcome, Stop, judge_died};
use crate::feed::Feed;
use crate::usage::{Accounted, Usage};
use anchorhold_jail::control::{Boottime, Class, ToWarden, Tombstone};
use anchorhold_jail::hatch::ToCell;
use anchorhold_jail::id::{CellId, ExecutionId, random_bytes};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long a surviving cell may take to answer `Attach`.
const ATTACH_WAIT: Duration = Duration::from_secs(2);
/// More executions than one cell can have that were not acknowledged.
const UNACKNOWLEDGED_MAX: usize = 256;
/// How long after its session's end an adopted execution is given up.
const LOST_AFTER_EXPIRY: Duration = Duration::from_secs(3);

impl Session {
    /// The result of an execution that nobody waits for: its caller was dropped, or (after a restart) an adopted cell
    /// ran or runs it. Waits for its end. `context` is where it was meant to run: an adopted cell that nobody named
    /// becomes that context's. Whoever waited for the same result before gets [`Error::Lost`].
    ///
    /// The wall time of what an adopted cell ran is the cell's word (at most the session's `execution_us`).
    ///
    /// # Errors
    /// [`Error::Lost`] when no cell knows it.
    pub async fn recover(&self, id: ExecutionId, context: &ContextKey) -> Result<Finished, Error> {
        let claim = self.inner.claim(id, context)?;
        match claim {
            Claim::Here(finished) => Ok(*finished),
            Claim::Awaited(ticket) => ticket.result().await,
        }
    }
}

enum Claim {
    Here(Box<Finished>),
    Awaited(Ticket),
}

impl Inner {
    fn claim(self: &Arc<Self>, id: ExecutionId, context: &ContextKey) -> Result<Claim, Error> {
        let mut core = locked(&self.core);
        let nameless =
            core.cells.values().find(|held| held.nameless && held.runs.iter().any(|run| run.id == id));
        if let Some(cell) = nameless.map(|held| held.cell.id) {
            core.name(self, cell, context);
        }
        if let Some(finished) = core.unclaimed.remove(&id) {
            return Ok(Claim::Here(Box::new(finished)));
        }
        let (sender, reply) = oneshot::channel();
        let ticket = Ticket { inner: Arc::clone(self), id, reply };
        if let Some(job) = core.jobs.get_mut(&id) {
            job.reply = sender;
            return Ok(Claim::Awaited(ticket));
        }
        if let Some((cell, feed, ended)) = core.adopted(id) {
            core.jobs.insert(id, adopted_job(context, cell, feed, sender));
            if ended {
                core.settle(self, id, Settled::Ended);
            }
            return Ok(Claim::Awaited(ticket));
        }
        // Its lock is taken by the ticket's drop.
        drop(core);
        let tombstone = self.hub.tombstone_of(self.spec.id, id).ok_or(Error::Lost)?;
        Ok(Claim::Here(Box::new(from_tombstone(id, &tombstone, context)?)))
    }

    /// Takes the surviving cells over.
    pub(crate) async fn adopt(
        self: &Arc<Self>,
        survivors: Vec<Given>,
        contexts: Vec<(CellId, ContextKey)>,
        accounted: impl Fn(CellId) -> Accounted,
    ) {
        let mut attached = self.attaching.subscribe();
        // The process before this one may have died between storing a change and saying it.
        let (session, network) = (self.spec.id, self.spec.network.clone());
        self.hub.tell(&ToWarden::Reroute { session, network });
        for given in survivors {
            let accounted = accounted(given.info.cell);
            self.attach(given, accounted);
        }
        let all = attached.wait_for(|count| *count == 0);
        if tokio::time::timeout(ATTACH_WAIT, all).await.is_err() {
            tracing::warn!(session = %self.spec.id, "a surviving cell does not answer");
        }
        let names: HashMap<CellId, ContextKey> = contexts.into_iter().collect();
        let mut core = locked(&self.core);
        let nameless: Vec<(CellId, bool)> = core.nameless().collect();
        for (cell, usable) in nameless {
            match names.get(&cell) {
                Some(context) if usable => core.name(self, cell, context),
                None if usable && core.has_runs(cell) => {}
                _ => core.breach(self, cell),
            }
        }
    }

    fn attach(self: &Arc<Self>, given: Given, accounted: Accounted) {
        let (id, class) = (given.info.cell, given.info.class);
        let mut core = locked(&self.core);
        let Some((cell, base_us, _)) = given.into_cell() else {
            self.hub.tell(&ToWarden::Kill { cell: id });
            return;
        };
        let counted = self.spec.allowance.resume(class == Class::Browser);
        let held = core.hold(&cell, base_us, accounted, counted);
        if class == Class::Files {
            // It may be in the middle of what another process asked for; the next operation takes a new one.
            core.kill(&self.hub, id);
            return;
        }
        let generation = u64::from_le_bytes(random_bytes());
        (held.nameless, held.attaching) = (true, Some(generation));
        self.attaching.send_modify(|count| *count += 1);
        cell.say(&ToCell::Attach { generation });
        self.hub.spawn(cell::read(Arc::clone(self), cell));
    }
}

impl Core {
    /// An adopted cell answered `Attach`: these executions it knows.
    pub(super) fn attached(
        &mut self,
        inner: &Inner,
        cell: CellId,
        executions: &[ExecutionId],
    ) -> Result<(), Breach> {
        if executions.len() > UNACKNOWLEDGED_MAX {
            return Err(Breach("more executions than a cell can have"));
        }
        if let Some(held) = self.cells.get_mut(&cell) {
            let output_bytes = inner.spec.limits.output_bytes;
            held.runs = executions.iter().map(|id| adopted_run(*id, output_bytes)).collect();
            held.mark_attached(inner);
        }
        Ok(())
    }

    /// Nameless cells, and whether they answered.
    fn nameless(&self) -> impl Iterator<Item = (CellId, bool)> {
        self.cells.values().filter(|held| held.nameless).map(|held| (held.cell.id, held.attaching.is_none()))
    }

    fn has_runs(&self, cell: CellId) -> bool {
        self.cells.get(&cell).is_some_and(|held| !held.runs.is_empty())
    }

    /// An execution of an adopted cell that has a name: where it ran, what it says, and whether it ended there.
    fn adopted(&self, id: ExecutionId) -> Option<(CellId, Feed, bool)> {
        let named = self.cells.values().filter(|held| !held.nameless);
        let mut its = named.flat_map(|held| held.runs.iter().map(|run| (held.cell.id, run)));
        let (cell, run) = its.find(|(_, run)| run.adopted && run.id == id)?;
        Some((cell, run.collector.feed().clone(), run.ended.is_some()))
    }

    /// An adopted cell is this context's. What it ran is settled when it is claimed, not before: what nobody claims
    /// is recorded already, and must not take what belongs to the others.
    fn name(&mut self, inner: &Arc<Inner>, cell: CellId, context: &ContextKey) {
        let Some(held) = self.cells.get_mut(&cell) else { return };
        held.nameless = false;
        let last = held.runs.last().filter(|run| run.ended.is_none());
        let running = last.map(|run| (run.id, run.collector.feed().clone()));
        let doomed = held.runs.iter().any(|run| run.ended.as_ref().is_some_and(|ended| ended.state_lost));
        let execution = running.as_ref().map(|(id, _)| *id);
        if let Some((id, feed)) = running {
            let left_us = self.expires_at.since(Boottime::now());
            held.lost_by(Instant::now() + Duration::from_micros(left_us) + LOST_AFTER_EXPIRY);
            // Nobody waits yet: its result is kept until it is claimed.
            self.jobs.insert(id, adopted_job(context, cell, feed, oneshot::channel().0));
        }
        if !self.state.adopt(context, cell, execution) || doomed {
            self.stop(inner, cell);
        }
    }
}

fn adopted_run(id: ExecutionId, output_bytes: u64) -> Run {
    Run {
        id,
        collector: Collector::new(output_bytes, Feed::default()),
        started: Instant::now(),
        memory_start_bytes: None,
        stop: Some(Stop::Unknown),
        ended: None,
        input_bytes: 0,
        reading: None,
        adopted: true,
    }
}

fn adopted_job(
    context: &ContextKey,
    cell: CellId,
    feed: Feed,
    reply: oneshot::Sender<Result<Finished, Error>>,
) -> Job {
    Job {
        context: context.clone(),
        packets: None,
        timeout_us: 0,
        accepted: Instant::now(),
        cell: Some(cell),
        reply,
        feed,
    }
}

/// The result of an execution that the warden ended at its deadline while there was no API.
fn from_tombstone(id: ExecutionId, tombstone: &Tombstone, context: &ContextKey) -> Result<Finished, Error> {
    let verdict = judge_died(id, tombstone.cause, Some(Stop::Unknown), tombstone.oom_kills > 0)?;
    Ok(Finished {
        outcome: Outcome::TimedOut,
        stdout: Capture::default(),
        stderr: Capture::default(),
        values: Vec::new(),
        pieces: Vec::new(),
        error: verdict.error,
        exit_code: None,
        limits_hit: Vec::new(),
        state_lost: true,
        // Its CPU and bytes are in the tombstone: the session's standing use.
        usage: Usage { memory_peak_bytes: tombstone.memory_peak_bytes, ..Usage::default() },
        cell: Some(tombstone.cell),
        context: context.clone(),
        taking: None,
        accounted: Accounted::default(),
    })
}
