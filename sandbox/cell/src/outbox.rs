//! Everything a cell says of executions through its hatch, kept until the listener stored it.
//!
//! Output is gathered so that a loop of small prints is not a packet each: it leaves when there is a packet full, when
//! the guest sleeps, some milliseconds later, or at the end. What was said of an execution is kept until it is
//! acknowledged, so that a new listener gets it from the beginning.
//!
//! Locks, always taken in this order: `sending` (for a whole message, or a whole replay), then `pending` or `retained`
//! (for moments). A send blocks while nobody reads; no deadline and no acknowledgement waits for it.

use crate::life::lock;
use anchorhold_jail::hatch::{Ended, FromCell, OUTPUT_CHUNK_BYTES, Stream, VALUE_BYTES_MAX, VALUES_MAX};
use anchorhold_jail::id::ExecutionId;
use anchorhold_jail::packet::{self, PacketError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How long output waits for more of it.
pub const GATHER: Duration = Duration::from_millis(20);
/// Output beyond this multiple of what may be kept ends the execution.
const EXCESS: u64 = 4;
/// Rich values of one execution together; the rest is refused.
const VALUES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Changes between the two streams whose order is kept within one gathering.
const SEGMENTS_MAX: usize = 64;
/// Executions whose record is kept; the API runs one at a time and acknowledges each.
const RETAINED_MAX: usize = 64;

/// What an execution wrote, in bytes, kept or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// To standard output.
    pub stdout: u64,
    /// To standard error.
    pub stderr: u64,
}

/// The execution wrote more than a cell puts up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMuch;

#[derive(Debug)]
struct Run {
    execution: ExecutionId,
    output_bytes: u64,
    written: Written,
    values: usize,
    value_bytes: usize,
}

/// Output in the order it was written; neighbours are of different streams.
type Segments = Vec<(Stream, Vec<u8>)>;

#[derive(Debug)]
struct Pending {
    run: Option<Run>,
    segments: Segments,
    bytes: usize,
    left: Instant,
}

#[derive(Debug)]
struct Record {
    execution: ExecutionId,
    said: Vec<FromCell>,
}

/// A cell's mouth.
#[derive(Debug)]
pub struct Outbox {
    hatch: OwnedFd,
    sending: Mutex<()>,
    pending: Mutex<Pending>,
    retained: Mutex<VecDeque<Record>>,
}

impl Outbox {
    /// Speaks through `hatch`.
    pub fn new(hatch: OwnedFd) -> Self {
        let pending = Pending { run: None, segments: Vec::new(), bytes: 0, left: Instant::now() };
        Self { hatch, sending: Mutex::new(()), pending: Mutex::new(pending), retained: Mutex::default() }
    }

    /// The hatch, to receive from.
    pub fn hatch(&self) -> &OwnedFd {
        &self.hatch
    }

    /// Says something that belongs to no execution.
    pub fn say(&self, message: &FromCell) -> Result<(), PacketError> {
        let _sending = lock(&self.sending);
        packet::send(&self.hatch, message, &[])
    }

    /// An execution begins; what is written from here on is its output.
    pub fn begin(&self, execution: ExecutionId, output_bytes: u64) {
        let mut retained = lock(&self.retained);
        if retained.len() >= RETAINED_MAX {
            retained.pop_front();
        }
        retained.push_back(Record { execution, said: Vec::new() });
        drop(retained);
        let mut pending = lock(&self.pending);
        pending.left = Instant::now();
        pending.run =
            Some(Run { execution, output_bytes, written: Written::default(), values: 0, value_bytes: 0 });
    }

    /// The program printed. Outside an execution it is dropped.
    pub fn write(&self, stream: Stream, bytes: &[u8]) -> Result<(), TooMuch> {
        let mut pending = lock(&self.pending);
        let Some(run) = pending.run.as_mut() else { return Ok(()) };
        let (kept, outcome) = run.count(stream, bytes.len());
        if pending.bytes > 0 && pending.bytes + kept > OUTPUT_CHUNK_BYTES {
            drop(pending);
            self.flush();
            pending = lock(&self.pending);
        }
        pending.append(stream, &bytes[..kept]);
        if pending.left.elapsed() >= GATHER {
            drop(pending);
            self.flush();
        }
        outcome
    }

    /// The program made a rich value; one that is too large is replaced by a refusal.
    pub fn value(&self, json: &[u8]) {
        let sending = lock(&self.sending);
        self.flush_locked(&sending);
        let Some((execution, allowed)) = self.admit(json.len()) else { return };
        let json = match allowed {
            Admission::Whole => json.to_vec(),
            Admission::Refused(why) => refusal(why, json.len()),
            Admission::Silent => return,
        };
        self.deliver(&sending, execution, FromCell::Value { execution, json });
    }

    fn admit(&self, length: usize) -> Option<(ExecutionId, Admission)> {
        lock(&self.pending).run.as_mut().map(|run| (run.execution, run.admit(length)))
    }

    /// Sends what was gathered.
    pub fn flush(&self) {
        let sending = lock(&self.sending);
        self.flush_locked(&sending);
    }

    /// Sends what was gathered if it waited long enough and nothing blocks: for a thread that must not wait.
    pub fn flush_due(&self) {
        let due = {
            let pending = lock(&self.pending);
            pending.bytes > 0 && pending.left.elapsed() >= GATHER
        };
        if !due || !self.has_room() {
            return;
        }
        if let Ok(sending) = self.sending.try_lock() {
            self.flush_locked(&sending);
        }
    }

    /// A unix socket is writable while at most a quarter of its buffer is used, so what fits a gathering fits.
    fn has_room(&self) -> bool {
        let mut sockets = [PollFd::new(&self.hatch, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut sockets, Some(&now)).is_ok_and(|ready| ready == 1)
    }

    fn flush_locked(&self, sending: &MutexGuard<'_, ()>) {
        let Some((execution, segments)) = lock(&self.pending).take() else { return };
        for (stream, bytes) in segments {
            for chunk in bytes.chunks(OUTPUT_CHUNK_BYTES) {
                let message = FromCell::Output { execution, stream, bytes: chunk.to_vec() };
                self.deliver(sending, execution, message);
            }
        }
    }

    /// What the running execution wrote so far.
    pub fn written(&self) -> Written {
        lock(&self.pending).run.as_ref().map(|run| run.written).unwrap_or_default()
    }

    /// The execution ended; nothing is said of it after this.
    pub fn end(&self, ended: Ended) {
        let sending = lock(&self.sending);
        self.end_locked(&sending, ended);
    }

    /// As [`Self::end`], for a thread that must not wait. Whether it was said.
    pub fn try_end(&self, ended: Ended) -> bool {
        let Ok(sending) = self.sending.try_lock() else { return false };
        let room = self.has_room();
        if room {
            self.end_locked(&sending, ended);
        }
        room
    }

    fn end_locked(&self, sending: &MutexGuard<'_, ()>, ended: Ended) {
        self.flush_locked(sending);
        lock(&self.pending).run = None;
        // Kept before it is said: the listener may acknowledge it before this thread runs on.
        self.keep(ended.execution, FromCell::Ended(ended.clone()));
        let _gone = packet::send(&self.hatch, &FromCell::Ended(ended), &[]);
    }

    /// Sends one message and keeps it. When the hatch is closed the receiving thread ends the cell; until then what is
    /// said is only kept.
    fn deliver(&self, _sending: &MutexGuard<'_, ()>, execution: ExecutionId, message: FromCell) {
        let _gone = packet::send(&self.hatch, &message, &[]);
        self.keep(execution, message);
    }

    fn keep(&self, execution: ExecutionId, message: FromCell) {
        let mut retained = lock(&self.retained);
        if let Some(record) = retained.iter_mut().rfind(|record| record.execution == execution) {
            record.keep(message);
        }
    }

    /// A new listener: says everything that was kept.
    pub fn attach(&self, generation: u64) -> Result<(), PacketError> {
        let _sending = lock(&self.sending);
        let retained = lock(&self.retained);
        let executions = retained.iter().map(|record| record.execution).collect();
        packet::send(&self.hatch, &FromCell::Attached { generation, executions }, &[])?;
        retained
            .iter()
            .flat_map(|record| &record.said)
            .try_for_each(|message| packet::send(&self.hatch, message, &[]))
    }

    /// Everything of this execution was stored: it is forgotten, unless it still runs.
    pub fn acknowledge(&self, execution: ExecutionId) {
        lock(&self.retained).retain(|record| record.execution != execution || !record.ended());
    }
}

enum Admission {
    Whole,
    Refused(&'static str),
    Silent,
}

impl Run {
    /// Counts; how many bytes may be kept, and whether it is too much altogether.
    fn count(&mut self, stream: Stream, length: usize) -> (usize, Result<(), TooMuch>) {
        let before = self.written.stdout.saturating_add(self.written.stderr);
        let slot = match stream {
            Stream::Stdout => &mut self.written.stdout,
            Stream::Stderr => &mut self.written.stderr,
        };
        *slot = slot.saturating_add(length as u64);
        let room = self.output_bytes.saturating_sub(before);
        let kept = usize::try_from(room).unwrap_or(usize::MAX).min(length);
        let total = before.saturating_add(length as u64);
        let outcome = if total > self.output_bytes.saturating_mul(EXCESS) { Err(TooMuch) } else { Ok(()) };
        (kept, outcome)
    }

    fn admit(&mut self, length: usize) -> Admission {
        self.values += 1;
        if self.values > VALUES_MAX {
            return Admission::Silent;
        }
        if self.values == VALUES_MAX {
            return Admission::Refused("too many values");
        }
        if length > VALUE_BYTES_MAX {
            return Admission::Refused("too large");
        }
        if self.value_bytes + length > VALUES_BYTES_MAX {
            return Admission::Refused("too large together with those before it");
        }
        self.value_bytes += length;
        Admission::Whole
    }
}

/// Stands where a value was refused, in the shape of a value.
fn refusal(why: &str, length: usize) -> Vec<u8> {
    let text = format!("a result of {length} bytes was refused: {why}");
    serde_json::json!({"main": false, "mime": {"text/plain": text}, "refused": true}).to_string().into_bytes()
}

impl Pending {
    fn append(&mut self, stream: Stream, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.bytes += bytes.len();
        let last = self.segments.last().is_some_and(|(of, _)| *of == stream);
        let slot = if last || self.segments.len() >= SEGMENTS_MAX {
            self.segments.iter_mut().rfind(|(of, _)| *of == stream)
        } else {
            None
        };
        match slot {
            Some((_, gathered)) => gathered.extend_from_slice(bytes),
            None => self.segments.push((stream, bytes.to_vec())),
        }
    }

    fn take(&mut self) -> Option<(ExecutionId, Segments)> {
        self.left = Instant::now();
        self.bytes = 0;
        let segments = std::mem::take(&mut self.segments);
        let execution = self.run.as_ref()?.execution;
        (!segments.is_empty()).then_some((execution, segments))
    }
}

impl Record {
    fn ended(&self) -> bool {
        matches!(self.said.last(), Some(FromCell::Ended(_)))
    }

    /// Joins output that belongs together: a replay needs no more packets than its bytes do.
    fn keep(&mut self, message: FromCell) {
        if let FromCell::Output { stream, bytes, .. } = &message
            && let Some(FromCell::Output { stream: last, bytes: kept, .. }) = self.said.last_mut()
            && last == stream
            && kept.len() + bytes.len() <= OUTPUT_CHUNK_BYTES
        {
            kept.extend_from_slice(bytes);
            return;
        }
        self.said.push(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anchorhold_jail::hatch::How;

    struct Listener(OwnedFd);

    impl Listener {
        fn next(&self) -> FromCell {
            packet::receive(&self.0).unwrap().0
        }

        /// Everything up to the end of an execution, output joined by stream.
        fn execution(&self) -> (Vec<u8>, Vec<u8>, usize, Ended) {
            let (mut stdout, mut stderr, mut packets) = (Vec::new(), Vec::new(), 0);
            loop {
                packets += 1;
                match self.next() {
                    FromCell::Output { stream: Stream::Stdout, bytes, .. } => stdout.extend(bytes),
                    FromCell::Output { stream: Stream::Stderr, bytes, .. } => stderr.extend(bytes),
                    FromCell::Ended(ended) => return (stdout, stderr, packets, ended),
                    _ => {}
                }
            }
        }
    }

    fn outbox() -> (Outbox, Listener) {
        let (a, b) = packet::pair().unwrap();
        (Outbox::new(a), Listener(b))
    }

    fn ended(outbox: &Outbox, execution: ExecutionId) -> Ended {
        let written = outbox.written();
        Ended {
            execution,
            how: How::Succeeded,
            error: None,
            exit_code: None,
            wall_us: 1,
            stdout_bytes: written.stdout,
            stderr_bytes: written.stderr,
            state_lost: false,
            memory_refused: false,
        }
    }

    #[test]
    fn small_writes_travel_together_and_in_order() {
        let (outbox, listener) = outbox();
        let id = ExecutionId::random();
        outbox.begin(id, 1 << 20);
        for n in 0..1000 {
            outbox.write(Stream::Stdout, format!("{n}\n").as_bytes()).unwrap();
        }
        outbox.write(Stream::Stderr, b"x").unwrap();
        outbox.end(ended(&outbox, id));
        let (stdout, stderr, packets, _) = listener.execution();
        let expected: String = (0..1000).map(|n| format!("{n}\n")).collect();
        assert_eq!((stdout, stderr), (expected.into_bytes(), b"x".to_vec()));
        assert!(packets < 10, "{packets}");
    }

    #[test]
    fn switching_streams_costs_no_packet_each() {
        let (outbox, listener) = outbox();
        outbox.begin(ExecutionId::random(), 1 << 20);
        for _ in 0..5000 {
            outbox.write(Stream::Stdout, b"o").unwrap();
            outbox.write(Stream::Stderr, b"e").unwrap();
        }
        let execution = lock(&outbox.pending).run.as_ref().unwrap().execution;
        outbox.end(ended(&outbox, execution));
        let (stdout, stderr, packets, _) = listener.execution();
        assert_eq!((stdout.len(), stderr.len()), (5000, 5000));
        assert!(packets <= 4 * SEGMENTS_MAX, "{packets}");
    }

    #[test]
    fn what_exceeds_the_cap_is_counted_and_four_times_as_much_is_too_much() {
        let (outbox, listener) = outbox();
        let id = ExecutionId::random();
        outbox.begin(id, 10);
        assert_eq!(outbox.write(Stream::Stdout, &[b'a'; 8]), Ok(()));
        assert_eq!(outbox.write(Stream::Stderr, &[b'b'; 32]), Ok(()));
        assert_eq!(outbox.write(Stream::Stdout, b"c"), Err(TooMuch));
        outbox.end(ended(&outbox, id));
        let (stdout, stderr, _, ended) = listener.execution();
        assert_eq!((stdout, stderr), (vec![b'a'; 8], vec![b'b'; 2]));
        assert_eq!((ended.stdout_bytes, ended.stderr_bytes), (9, 32));
    }

    #[test]
    fn values_beyond_the_caps_are_replaced() {
        let (outbox, listener) = outbox();
        outbox.begin(ExecutionId::random(), 10);
        let values = std::thread::spawn(move || {
            let sizes = std::iter::once(VALUE_BYTES_MAX + 1).chain(std::iter::repeat_n(2, VALUES_MAX + 10));
            sizes.for_each(|size| outbox.value(&vec![b'1'; size]));
        });
        let refused = |message| match message {
            FromCell::Value { json, .. } => json.starts_with(b"{"),
            other => panic!("{other:?}"),
        };
        assert!(refused(listener.next()));
        for _ in 2..VALUES_MAX {
            assert!(!refused(listener.next()));
        }
        assert!(refused(listener.next()));
        values.join().unwrap();
        assert!(matches!(packet::receive::<FromCell>(&listener.0), Err(PacketError::Closed)));
    }

    #[test]
    fn a_new_listener_hears_everything_that_was_not_acknowledged() {
        let (outbox, listener) = outbox();
        let (first, second) = (ExecutionId::random(), ExecutionId::random());
        for id in [first, second] {
            outbox.begin(id, 1 << 20);
            outbox.write(Stream::Stdout, &[b'a'; 40_000]).unwrap();
            outbox.value(b"1");
            outbox.end(ended(&outbox, id));
            listener.execution();
        }
        outbox.acknowledge(first);
        outbox.attach(3).unwrap();
        assert!(
            matches!(listener.next(), FromCell::Attached { generation: 3, executions } if executions == [second])
        );
        let (stdout, _, packets, ended) = listener.execution();
        assert_eq!((stdout.len(), packets, ended.execution), (40_000, 5, second));
    }

    #[test]
    fn a_running_execution_cannot_be_forgotten() {
        let (outbox, listener) = outbox();
        let id = ExecutionId::random();
        outbox.begin(id, 1 << 20);
        outbox.acknowledge(id);
        outbox.attach(1).unwrap();
        assert!(matches!(listener.next(), FromCell::Attached { executions, .. } if executions == [id]));
    }
}
