//! One run of code: what goes in, what comes out.

use crate::error::Error;
use crate::feed::{Feed, Piece};
use crate::json;
use crate::usage::{Accounted, Taking, Usage};
use anchorhold_jail::control::{Cause, Digest, Interpreter};
use anchorhold_jail::hatch::{Dialect, Ended, How, OUTPUT_CHUNK_BYTES, Stream, VALUE_BYTES_MAX, VALUES_MAX};
use anchorhold_jail::id::{CellId, ExecutionId};

/// The most bytes of rich values that are kept of one execution.
const VALUES_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Names a context within its session.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContextKey {
    /// The image of its interpreter.
    pub image: Digest,
    /// Which of the image's interpreters.
    pub interpreter: Interpreter,
    /// Told apart by name among those of the same image.
    pub name: String,
}

/// One run of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// Names it; never used twice.
    pub id: ExecutionId,
    /// Where it runs.
    pub context: ContextKey,
    /// The context's interpreter is ended before, so that this starts in a new one.
    pub reset_context: bool,
    /// The program.
    pub code: String,
    /// What it is written in.
    pub dialect: Dialect,
    /// Its standard input, or the beginning of it.
    pub stdin: Vec<u8>,
    /// More of it may follow ([`crate::Session::input`]); a program that reads on waits for it.
    pub stdin_open: bool,
    /// Additions to the session's environment.
    pub env: Vec<(String, String)>,
    /// Working directory; the workspace where omitted.
    pub cwd: Option<String>,
    /// Wall time until it is interrupted, in microseconds, from its start in the cell.
    pub timeout_us: u64,
}

/// What a session says of an execution that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// What became of it.
    pub outcome: Outcome,
    /// What it wrote to standard output.
    pub stdout: Capture,
    /// What it wrote to standard error.
    pub stderr: Capture,
    /// Rich values, each JSON that parses with a depth of at most 64; at most 256 of at most 2 MiB, 16 MiB together.
    pub values: Vec<Vec<u8>>,
    /// The order of all of it.
    pub pieces: Vec<Piece>,
    /// JSON `{"name","message","traceback"}`, checked like a value, but made by the guest.
    pub error: Option<Vec<u8>>,
    /// The code that the program ended itself with.
    pub exit_code: Option<i32>,
    /// Limits that it ran into, whatever the outcome.
    pub limits_hit: Vec<Limit>,
    /// The context's interpreter is gone; the next execution there starts in a new one.
    pub state_lost: bool,
    /// What it consumed.
    pub usage: Usage,
    /// What of the queueing was for a cell; `None` when its context had one.
    pub taking: Option<Taking>,
    /// Where it ran; `None` when it was withdrawn before it reached a cell (it used nothing then).
    pub cell: Option<CellId>,
    /// Its context.
    pub context: ContextKey,
    /// What its cell used since the session took it, with this execution's.
    pub accounted: Accounted,
}

/// What was kept of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capture {
    /// The beginning of it; what is not UTF-8 is U+FFFD.
    pub text: String,
    /// How many bytes of what was written that is.
    pub kept_bytes: u64,
    /// How many were written.
    pub total_bytes: u64,
}

/// What became of an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The program came to its end.
    Succeeded,
    /// The program failed by itself, or its interpreter died (error name `INTERPRETER_DIED`).
    Failed,
    /// Its time, or its session's, was over.
    TimedOut,
    /// By whoever called [`crate::Session::cancel`] or [`crate::Session::close`].
    Cancelled,
    /// A limit ended it.
    Exceeded(Limit),
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Limit {
    /// Memory.
    Memory,
    /// CPU time.
    Cpu,
    /// Output (in `limits_hit`: rich values beyond 16 MiB were dropped).
    Output,
    /// Tasks.
    Processes,
    /// The workspace.
    Disk,
}

/// A cell said what no honest cell says: it was taken over, and nothing that it says counts any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cell broke the protocol: {0}")]
pub(crate) struct Breach(pub(crate) &'static str);

/// Collects what a cell says of an execution; never more than an honest cell may send.
#[derive(Debug)]
pub(crate) struct Collector {
    feed: Feed,
    output_left: u64,
    kept: [u64; 2],
    values_seen: usize,
    values_bytes: usize,
    values_dropped: bool,
}

impl Collector {
    /// `output_bytes` is what both streams together may keep.
    pub(crate) fn new(output_bytes: u64, feed: Feed) -> Self {
        Self {
            feed,
            output_left: output_bytes,
            kept: [0; 2],
            values_seen: 0,
            values_bytes: 0,
            values_dropped: false,
        }
    }

    /// Where it is collected.
    pub(crate) fn feed(&self) -> &Feed {
        &self.feed
    }

    /// A piece of output. Returns what it takes in an answer, in bytes.
    pub(crate) fn output(&mut self, stream: Stream, bytes: &[u8]) -> Result<usize, Breach> {
        // Empty pieces are refused because they would let a flood pass every limit.
        if bytes.is_empty() || bytes.len() > OUTPUT_CHUNK_BYTES {
            return Err(Breach("a piece of output of a wrong length"));
        }
        let length = bytes.len() as u64;
        self.output_left =
            self.output_left.checked_sub(length).ok_or(Breach("more output than it may keep"))?;
        self.kept[stream as usize] += length;
        Ok(self.feed.output(stream, bytes))
    }

    /// A rich value. What is no JSON is dropped: the guest wrote it, the cell only passed it on.
    pub(crate) fn value(&mut self, json: Vec<u8>) -> Result<(), Breach> {
        self.values_seen += 1;
        if self.values_seen > VALUES_MAX || json.len() > VALUE_BYTES_MAX {
            return Err(Breach("more or longer rich values than there may be"));
        }
        if self.values_bytes + json.len() > VALUES_BYTES_MAX {
            self.values_dropped = true;
        } else if json::is_acceptable(&json) {
            self.values_bytes += json.len();
            self.feed.value(json);
        }
        Ok(())
    }

    /// What was collected: standard output, standard error, values and the order of it all.
    pub(crate) fn finish(self, ended: Option<&Ended>) -> (Capture, Capture, Vec<Vec<u8>>, Vec<Piece>) {
        let said = self.feed.end();
        let capture = |text: String, kept_bytes: u64, written: Option<u64>| {
            let total_bytes = written.map_or(kept_bytes, |written| written.max(kept_bytes));
            Capture { text, kept_bytes, total_bytes }
        };
        let stdout = capture(said.stdout, self.kept[0], ended.map(|e| e.stdout_bytes));
        let stderr = capture(said.stderr, self.kept[1], ended.map(|e| e.stderr_bytes));
        (stdout, stderr, said.values, said.pieces)
    }

    /// Whether rich values were dropped because there were too many bytes of them.
    pub(crate) fn dropped_values(&self) -> bool {
        self.values_dropped
    }
}

/// Why we ended an execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Somebody asked for it.
    Cancelled,
    /// It used more CPU than it may.
    Cpu,
    /// Its cell broke the protocol.
    Breach,
    /// Its session is being closed.
    Closing,
    /// Another process of the API ran it and may have stopped it.
    Unknown,
}

/// What is known of an execution's end apart from its numbers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    pub(crate) error: Option<Vec<u8>>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) state_lost: bool,
    /// It ran into its memory limit.
    pub(crate) memory_hit: bool,
}

/// The verdict on an execution that its cell said ended. `oom_killed`: the kernel killed for memory meanwhile.
pub(crate) fn judge_ended(ended: &Ended, stop: Option<Stop>, oom_killed: bool) -> Verdict {
    let memory_hit = ended.memory_refused || oom_killed;
    let crashed = ended.how == How::Crashed;
    let outcome = match ended.how {
        How::Succeeded if ended.exit_code.is_some_and(|code| code != 0) => Outcome::Failed,
        How::Succeeded => Outcome::Succeeded,
        How::Crashed if memory_hit => Outcome::Exceeded(Limit::Memory),
        How::Failed | How::Crashed => Outcome::Failed,
        How::TimedOut => Outcome::TimedOut,
        How::Cancelled if stop == Some(Stop::Cpu) => Outcome::Exceeded(Limit::Cpu),
        How::Cancelled => Outcome::Cancelled,
        How::OutputExceeded => Outcome::Exceeded(Limit::Output),
    };
    let said =
        ended.error.as_ref().filter(|error| error.len() <= VALUE_BYTES_MAX && json::is_acceptable(error));
    let error = said.cloned().or_else(|| (crashed && outcome == Outcome::Failed).then(interpreter_died));
    Verdict {
        outcome,
        error,
        exit_code: ended.exit_code,
        state_lost: ended.state_lost || crashed,
        memory_hit,
    }
}

/// The verdict on an execution whose cell ended without a word of it.
pub(crate) fn judge_died(
    execution: ExecutionId,
    cause: Cause,
    stop: Option<Stop>,
    oom_killed: bool,
) -> Result<Verdict, Error> {
    let outcome = match (cause, stop) {
        (Cause::OutOfMemory, _) => Outcome::Exceeded(Limit::Memory),
        (Cause::Deadline(whose), _) if whose == execution => Outcome::TimedOut,
        // Armed for another execution: our mistake.
        (Cause::Deadline(_), _) => return Err(Error::Lost),
        (Cause::WardenDied, _) => return Err(Error::Lost),
        (Cause::Ended | Cause::Killed, _) if oom_killed => Outcome::Exceeded(Limit::Memory),
        (_, Some(Stop::Cpu)) => Outcome::Exceeded(Limit::Cpu),
        (_, Some(Stop::Cancelled | Stop::Closing)) => Outcome::Cancelled,
        (Cause::Expired, _) => Outcome::TimedOut,
        (Cause::Orphaned, _) => return Err(Error::Lost),
        (Cause::Ended | Cause::Killed, _) => Outcome::Failed,
    };
    let error = (outcome == Outcome::Failed).then(interpreter_died);
    let memory_hit = oom_killed || cause == Cause::OutOfMemory;
    Ok(Verdict { outcome, error, exit_code: None, state_lost: true, memory_hit })
}

/// The error of a program whose interpreter is gone.
fn interpreter_died() -> Vec<u8> {
    let message = "the interpreter died while it ran the program";
    serde_json::json!({ "name": "INTERPRETER_DIED", "message": message, "traceback": "" })
        .to_string()
        .into_bytes()
}
