//! What a guest can call: WASI preview 1 from wasmtime, with sleeping and randomness of our own, and `anchorhold.emit`.
//!
//! `poll_oneoff` is replaced so that a sleeping guest can be woken, and needs neither timers nor another thread.
//! `random_get` is replaced because wasmtime's generator lives in this process's memory, which every cell of a zygote
//! starts with a copy of.

use super::Host;
use super::input::Input;
use crate::outbox::Outbox;
use crate::watch::Watch;
use anchorhold_jail::hatch::{How, Stream, VALUE_BYTES_MAX};
use bytes::Bytes;
use rustix::rand::{GetRandomFlags, getrandom};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::{AsContextMut, Caller, Engine, Extern, Linker, Result, bail, format_err};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::{FsPerms, HostMonotonicClock, WasiCtxBuilder, WasiView, async_trait};

/// Entries of wasmtime's table. The process's limit of descriptors is lower and answers the guest with an error, while
/// a full table traps it.
const TABLE_ENTRIES: usize = 4096;
/// The longest piece of standard input that is copied at once.
const STDIN_CHUNK_BYTES: usize = 64 * 1024;
/// Between two looks at whether to stop, when filling memory with random bytes.
const RANDOM_CHUNK_BYTES: usize = 256 * 1024;
/// Sleeps at least this long let gathered output leave first.
const LONG_SLEEP: Duration = Duration::from_millis(5);

const SUCCESS: i32 = 0;
const EINVAL: i32 = 28;

/// What a session's guest is connected to. Before a session there is none: output is dropped, nothing emits.
#[derive(Debug)]
pub struct Session {
    /// Where output and values go.
    pub outbox: Arc<Outbox>,
    /// Who may stop it.
    pub watch: Arc<Watch>,
    /// To look again at once after the guest itself asked to be stopped.
    pub engine: Engine,
    /// Time of the guest's monotonic clock is counted from here.
    pub origin: Instant,
    /// Standard input.
    pub input: Input,
}

impl Session {
    fn write(&self, stream: Stream, bytes: &[u8]) {
        if self.outbox.write(stream, bytes).is_err() && self.watch.ask(None, How::OutputExceeded) {
            self.engine.increment_epoch();
        }
    }
}

/// Everything a guest imports.
pub fn linker(engine: &Engine) -> Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    p1::add_to_linker_sync(&mut linker, |host: &mut Host| &mut host.wasi)?;
    linker.allow_shadowing(true);
    linker.func_wrap("wasi_snapshot_preview1", "poll_oneoff", poll_oneoff)?;
    linker.func_wrap("wasi_snapshot_preview1", "random_get", random_get)?;
    linker.func_wrap("anchorhold", "emit", emit)?;
    Ok(linker)
}

/// A context without files, input and output: what a guest has before it has a session.
pub fn nothing() -> WasiP1Ctx {
    builder().build_p1()
}

/// A context for a rehearsal: the directories that the snapshot knows are there (the zygote's root, which is empty),
/// and what the guest has to say of its troubles goes to the operator.
pub fn rehearsal() -> Result<WasiP1Ctx> {
    let mut builder = builder();
    builder.inherit_stderr().preopened_dir("/", "/workspace", FsPerms::ReadOnly)?.preopened_dir(
        "/",
        "/tmp",
        FsPerms::ReadOnly,
    )?;
    Ok(builder.build_p1())
}

fn builder() -> WasiCtxBuilder {
    let mut builder = WasiCtxBuilder::new();
    // One thread runs the guest and has nothing else to do: it may wait for a file.
    builder.allow_blocking_current_thread(true).allow_tcp(false).allow_udp(false);
    builder
}

/// A session's context. `root` holds the directories that the guest sees as `/workspace` and `/tmp`; they take the
/// descriptors 3 and 4, as when the snapshot was made.
pub fn context(session: &Arc<Session>, root: BorrowedFd<'_>, env: &[(String, String)]) -> Result<WasiP1Ctx> {
    // wasmtime opens directories by path only. The cell's own working directory means nothing to anyone else in it.
    rustix::process::fchdir(root)?;
    let mut builder = builder();
    builder
        .stdin(Stdin(Arc::clone(session)))
        .stdout(Stdout(Arc::clone(session), Stream::Stdout))
        .stderr(Stdout(Arc::clone(session), Stream::Stderr))
        .monotonic_clock(Clock(session.origin))
        .envs(env)
        .preopened_dir(anchorhold_jail::lock::WORKSPACE_DIR, "/workspace", FsPerms::ReadWrite)?
        .preopened_dir(anchorhold_jail::lock::TMP_DIR, "/tmp", FsPerms::ReadWrite)?;
    let mut context = builder.build_p1();
    context.ctx().table.set_max_capacity(TABLE_ENTRIES);
    Ok(context)
}

/// Counts from the session's beginning: the host's uptime is none of the guest's business.
struct Clock(Instant);

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        elapsed(self.0)
    }
}

fn elapsed(origin: Instant) -> u64 {
    u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

struct Stdin(Arc<Session>);

impl IsTerminal for Stdin {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Stdin {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncRead + Send + Sync> {
        // Of another version of WASI, which no guest imports.
        Box::new(tokio::io::empty())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}

#[async_trait]
impl Pollable for Stdin {
    async fn ready(&mut self) {}
}

#[async_trait]
impl InputStream for Stdin {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let Session { input, outbox, watch, .. } = &*self.0;
        if input.is_dry() {
            // A question should be read before its answer is waited for.
            outbox.flush();
        }
        let read = input.read(size.min(STDIN_CHUNK_BYTES), watch);
        if read.is_empty() && size > 0 { Err(StreamError::Closed) } else { Ok(read) }
    }
}

struct Stdout(Arc<Session>, Stream);

impl IsTerminal for Stdout {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdout {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        // Of another version of WASI, which no guest imports.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Self(Arc::clone(&self.0), self.1))
    }
}

#[async_trait]
impl Pollable for Stdout {
    async fn ready(&mut self) {}
}

#[async_trait]
impl OutputStream for Stdout {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.write(self.1, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(STDIN_CHUNK_BYTES)
    }
}

/// A range of the guest's memory.
fn range(memory: &mut [u8], at: u32, length: u64) -> Result<&mut [u8]> {
    let start = u64::from(at);
    let bounds =
        usize::try_from(start).ok().zip(start.checked_add(length).and_then(|end| usize::try_from(end).ok()));
    let slice = bounds.and_then(|(start, end)| memory.get_mut(start..end));
    slice.ok_or_else(|| format_err!("{length} bytes at {at} are not in memory"))
}

/// The guest's memory beside what the host keeps for it.
fn data<'a>(caller: &'a mut Caller<'_, Host>) -> Result<(&'a mut [u8], &'a mut Host)> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory.data_and_store_mut(caller)),
        _ => bail!("the guest exports no memory"),
    }
}

fn random_get(mut caller: Caller<'_, Host>, at: u32, length: u32) -> Result<i32> {
    let (memory, host) = data(&mut caller)?;
    let mut rest = range(memory, at, u64::from(length))?;
    while !rest.is_empty() {
        let wanted = rest.len().min(RANDOM_CHUNK_BYTES);
        let filled = getrandom(&mut rest[..wanted], GetRandomFlags::empty())?;
        rest = &mut rest[filled..];
        let session = host.session.as_ref();
        if session.is_some_and(|session| session.watch.is_doomed()) {
            bail!("stopped");
        }
    }
    Ok(SUCCESS)
}

fn emit(mut caller: Caller<'_, Host>, kind: u32, at: u32, length: u32) -> Result<()> {
    let (memory, host) = data(&mut caller)?;
    let bytes = range(memory, at, u64::from(length))?;
    let Some(session) = &host.session else { return Ok(()) };
    match kind {
        0 => session.outbox.value(bytes),
        1 if bytes.len() <= VALUE_BYTES_MAX => host.error = Some(bytes.to_vec()),
        1 => {
            host.error = Some(
                br#"{"name":"ErrorTooLarge","message":"the error was too large","traceback":""}"#.to_vec(),
            )
        }
        2 => host.exit_code = std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok()),
        _ => {}
    }
    Ok(())
}

/// A subscription of `poll_oneoff`, as far as it matters here.
enum Wait {
    /// A file or stream: always ready, nothing of ours blocks.
    Ready { userdata: [u8; 8], kind: u8 },
    /// A moment.
    Until { userdata: [u8; 8], end: Instant },
}

const SUBSCRIPTION_BYTES: u64 = 48;
const EVENT_BYTES: u64 = 32;
const EVENT_CLOCK: u8 = 0;
/// Later than anything runs.
const FAR: Duration = Duration::from_secs(365 * 86_400);

fn poll_oneoff(
    mut caller: Caller<'_, Host>,
    subs: u32,
    events: u32,
    count: u32,
    ready_at: u32,
) -> Result<i32> {
    if count == 0 {
        return Ok(EINVAL);
    }
    let (memory, host) = data(&mut caller)?;
    let origin = host.session.as_ref().map_or_else(Instant::now, |session| session.origin);
    let now = Instant::now();
    let (mut first, mut any_ready) = (None::<Instant>, false);
    for index in 0..count {
        match subscription(memory, subs, index, origin, now)? {
            Some(Wait::Ready { .. }) => any_ready = true,
            Some(Wait::Until { end, .. }) => first = Some(first.map_or(end, |first| first.min(end))),
            None => return Ok(EINVAL),
        }
    }
    if let (false, Some(end)) = (any_ready, first) {
        sleep(host, end);
        // A sleep that was cut short ends as if it were over, with the guest told why.
        super::stop_if_asked(caller.as_context_mut())?;
    }
    let (memory, _) = data(&mut caller)?;
    let until = if any_ready { now } else { first.unwrap_or(now).max(Instant::now()) };
    let mut written = 0;
    for index in 0..count {
        let event = match subscription(memory, subs, index, origin, now)? {
            Some(Wait::Ready { userdata, kind }) => event(userdata, kind),
            Some(Wait::Until { userdata, end }) if end <= until => event(userdata, EVENT_CLOCK),
            _ => continue,
        };
        let at = u64::from(events) + u64::from(written) * EVENT_BYTES;
        range(memory, u32::try_from(at)?, EVENT_BYTES)?.copy_from_slice(&event);
        written += 1;
    }
    range(memory, ready_at, 4)?.copy_from_slice(&u32::to_le_bytes(written));
    Ok(SUCCESS)
}

fn sleep(host: &Host, end: Instant) {
    // A guest that is being prepared has no reason to sleep.
    let Some(session) = &host.session else { return };
    if end.saturating_duration_since(Instant::now()) >= LONG_SLEEP {
        session.outbox.flush();
    }
    session.watch.sleep_until(end);
}

fn subscription(
    memory: &mut [u8],
    subs: u32,
    index: u32,
    origin: Instant,
    now: Instant,
) -> Result<Option<Wait>> {
    let at = u64::from(subs) + u64::from(index) * SUBSCRIPTION_BYTES;
    let bytes = range(memory, u32::try_from(at)?, SUBSCRIPTION_BYTES)?;
    let userdata = array(bytes, 0);
    let kind = bytes[8];
    if kind != EVENT_CLOCK {
        return Ok((kind <= 2).then_some(Wait::Ready { userdata, kind }));
    }
    let clock = u32::from_le_bytes(array(bytes, 16));
    let timeout = Duration::from_nanos(u64::from_le_bytes(array(bytes, 24)));
    let absolute = bytes[40] & 1 == 1;
    let end = match (clock, absolute) {
        (0 | 1, false) => now + timeout.min(FAR),
        (1, true) => origin + timeout.min(FAR),
        (0, true) => {
            let since =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            now + timeout.saturating_sub(since).min(FAR)
        }
        _ => return Ok(None),
    };
    Ok(Some(Wait::Until { userdata, end }))
}

fn event(userdata: [u8; 8], kind: u8) -> [u8; 32] {
    let mut event = [0; 32];
    event[..8].copy_from_slice(&userdata);
    event[10] = kind;
    // How much can be read or written is not known before it is tried; something is.
    event[16] = u8::from(kind != EVENT_CLOCK);
    event
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_range_leaves_the_memory() {
        let mut memory = vec![0; 64];
        assert_eq!(range(&mut memory, 60, 4).unwrap().len(), 4);
        for (at, length) in [(61, 4), (64, 1), (u32::MAX, 1), (0, u64::MAX), (u32::MAX, u64::MAX)] {
            assert!(range(&mut memory, at, length).is_err());
        }
    }

    #[test]
    fn subscriptions_are_read_and_refused() {
        let (now, mut memory) = (Instant::now(), vec![0; 96]);
        memory[24] = 5;
        assert!(matches!(
            subscription(&mut memory, 0, 0, now, now),
            Ok(Some(Wait::Until { end, .. })) if end == now + Duration::from_nanos(5)
        ));
        memory[48 + 8] = 1;
        assert!(matches!(subscription(&mut memory, 0, 1, now, now), Ok(Some(Wait::Ready { kind: 1, .. }))));
        memory[16] = 2;
        assert!(matches!(subscription(&mut memory, 0, 0, now, now), Ok(None)));
        assert!(subscription(&mut memory, 0, 2, now, now).is_err());
        assert!(subscription(&mut memory, u32::MAX, u32::MAX, now, now).is_err());
    }
}
