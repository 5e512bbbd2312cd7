//! The audit log: who did what to what, when, and what came of it; and where sessions were kept from going. One line of
//! JSON each, in order, for good.
//!
//! Each line holds the SHA-256 of the line before (over rotations and restarts too) and a number that grows by one:
//! a line that was changed or taken out breaks the chain, one that could not be written leaves a gap. Lines are ASCII,
//! so nothing that a client sent can end one or play with a terminal.
//!
//! One thread writes. Nobody waits for it: what does not fit into its queue, or onto the disk, is counted by the gap.

use crate::config::AuditPolicy;
use crate::ledger::{KeyId, TenantId};
use crate::tenant::Bucket;
use anchorhold_sandbox::{Boottime, SessionId};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// The newest file; older ones have `.1` and so on behind it.
const FILE: &str = "audit.jsonl";
/// Lines that wait to be written.
const WAITING_MAX: usize = 4096;
/// The longest part of a client's text in a line.
const TEXT_CHARS_MAX: usize = 256;
/// No line is longer: every character of a client's may take twelve.
const LINE_BYTES_MAX: u64 = 16 * 1024;
/// Wrong keys that are told of one by one within a second; of more, only how many.
const FAILURES_PER_SECOND: u64 = 10;

/// Something that was asked for.
#[derive(Debug, Clone)]
pub struct Event {
    /// By whom; `None`: no valid key was shown.
    pub who: Option<(TenantId, KeyId)>,
    /// The request's id.
    pub request: String,
    /// What was asked for: of a closed set, but for the method.
    pub action: String,
    /// Of what, as the client named it.
    pub target: String,
    /// What the answer is about, where the target does not say: the id of what was made.
    pub subject: Option<String>,
    /// The answer's status.
    pub status: u16,
    /// The answer's code, when it was refused.
    pub code: Option<&'static str>,
}

/// Something of a session that egress did not let out. The words are egress' own: it is bounded here, not believed.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Whose session, by the tenant's id.
    pub tenant: String,
    /// Which session.
    pub session: SessionId,
    /// The host and port that were asked for, as far as anything could be made of them.
    pub target: Option<String>,
    /// The rule that refused it.
    pub rule: String,
    /// Decisions before this one that are not told of.
    pub missed: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    at: String,
    prev: &'a str,
    tenant: Option<String>,
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<&'a str>,
    action: String,
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    code: Option<String>,
    /// Wrong keys, or decisions of egress, before this that were not told of.
    #[serde(skip_serializing_if = "is_zero")]
    suppressed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What is written down.
#[derive(Debug)]
enum Entry {
    /// And how many like it were suppressed before.
    Event(Event, u64),
    Refused(Refused),
}

enum Message {
    Entry(Entry),
    Stop,
}

/// The audit log; cheap to clone.
#[derive(Debug, Clone)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: SyncSender<Message>,
    /// What did not fit into the queue.
    lost: Arc<AtomicU64>,
    failures: Bucket,
    suppressed: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Audit {
    /// Goes on with the log in this directory.
    pub fn start(directory: &Path, policy: AuditPolicy) -> io::Result<Self> {
        let log = Log::open(directory, policy)?;
        let (queue, waiting) = sync_channel(WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = lost.clone();
        let thread =
            std::thread::Builder::new().name("audit".into()).spawn(move || write(log, &waiting, &counter))?;
        Ok(Self(Arc::new(Inner {
            queue,
            lost,
            failures: Bucket::default(),
            suppressed: AtomicU64::new(0),
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// Notes what was done or refused. Never waits.
    pub fn note(&self, event: Event) {
        let mut suppressed = 0;
        if event.who.is_none() {
            if !self.0.failures.take(FAILURES_PER_SECOND, Boottime::now().0) {
                self.0.suppressed.fetch_add(1, Ordering::Relaxed);
                return;
            }
            suppressed = self.0.suppressed.swap(0, Ordering::Relaxed);
        }
        self.enqueue(Entry::Event(event, suppressed));
    }

    /// Notes what egress refused. Never waits. How often is the caller's to bound.
    pub fn note_refused(&self, refused: Refused) {
        self.enqueue(Entry::Refused(refused));
    }

    fn enqueue(&self, entry: Entry) {
        if self.0.queue.try_send(Message::Entry(entry)).is_err() {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything that was noted is written.
    pub fn close(&self) {
        let _ended = self.0.queue.send(Message::Stop);
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the audit log's thread panicked");
        }
    }
}

fn write(mut log: Log, waiting: &Receiver<Message>, lost: &AtomicU64) {
    let mut failing = false;
    while let Ok(Message::Entry(entry)) = waiting.recv() {
        log.skip(lost.swap(0, Ordering::Relaxed));
        match log.append(&entry) {
            Ok(()) if failing => {
                failing = false;
                tracing::info!("the audit log is written again; the gap in its numbers is what it lacks");
            }
            Ok(()) => {}
            Err(error) if !failing => {
                failing = true;
                tracing::error!(%error, "the audit log cannot be written; what happens is done all the same");
            }
            Err(_still) => {}
        }
    }
}

/// The files.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    policy: AuditPolicy,
    file: File,
    length: u64,
    /// Of the last event, written or not.
    sequence: u64,
    /// Of the last line that was written.
    digest: String,
}

impl Log {
    fn open(directory: &Path, policy: AuditPolicy) -> io::Result<Self> {
        let path = directory.join(FILE);
        let file = open(&path)?;
        let length = file.metadata()?.len();
        let mut log = Self { path, policy, file, length, sequence: 0, digest: digest(b"") };
        log.resume()?;
        Ok(log)
    }

    /// Takes up the chain where an earlier life left it. A line that was torn by a crash is ended and stays, without
    /// the number it should have had: that is the gap.
    fn resume(&mut self) -> io::Result<()> {
        let newest = tail(&self.path)?;
        let text = if newest.is_empty() { tail(&older(&self.path, 1))? } else { newest };
        if text.is_empty() {
            return Ok(());
        }
        let torn = text.last() != Some(&b'\n');
        if torn && self.length > 0 {
            self.file.write_all(b"\n")?;
            self.length += 1;
        }
        let mut lines = text.split(|byte| *byte == b'\n').rev().skip_while(|line| line.is_empty());
        let sequence = |line: &[u8]| {
            serde_json::from_slice::<serde_json::Value>(line).ok().and_then(|line| line["seq"].as_u64())
        };
        let last = lines.next().unwrap_or_default();
        self.digest = digest(last);
        let known = std::iter::once(last).chain(lines).find_map(sequence).unwrap_or(0);
        self.sequence = known + u64::from(sequence(last).is_none());
        Ok(())
    }

    /// So many events will never be written.
    fn skip(&mut self, count: u64) {
        self.sequence += count;
    }

    fn append(&mut self, entry: &Entry) -> io::Result<()> {
        self.sequence += 1;
        let line = self.line(entry);
        let text = ascii(&serde_json::to_string(&line)?);
        if self.length > 0 && self.length + text.len() as u64 + 1 > self.policy.file_bytes {
            self.rotate()?;
        }
        if let Err(error) = self.file.write_all(format!("{text}\n").as_bytes()) {
            // What was written of it must not spoil the next line; when that fails too, the next line shows it.
            let _also_failed = self.file.set_len(self.length);
            return Err(error);
        }
        self.length += text.len() as u64 + 1;
        self.digest = digest(text.as_bytes());
        Ok(())
    }

    fn line<'a>(&'a self, entry: &'a Entry) -> Line<'a> {
        let (seq, at, prev) = (self.sequence, jiff::Timestamp::now().to_string(), &*self.digest);
        match entry {
            Entry::Event(event, suppressed) => Line {
                seq,
                at,
                prev,
                tenant: event.who.map(|(tenant, _)| format!("ten_{tenant}")),
                key: event.who.map(|(_, key)| format!("key_{key}")),
                request: Some(&event.request),
                action: bounded(&event.action),
                target: bounded(&event.target),
                subject: event.subject.clone(),
                status: Some(event.status),
                code: event.code.map(str::to_owned),
                suppressed: *suppressed,
            },
            Entry::Refused(refused) => Line {
                seq,
                at,
                prev,
                tenant: Some(format!("ten_{}", refused.tenant)),
                key: None,
                request: None,
                action: "egress".to_owned(),
                target: bounded(refused.target.as_deref().unwrap_or("-")),
                subject: Some(format!("ses_{}", refused.session)),
                status: None,
                code: Some(bounded(&refused.rule)),
                suppressed: refused.missed,
            },
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.policy.files).rev() {
            let from = if number == 1 { self.path.clone() } else { older(&self.path, number - 1) };
            match std::fs::rename(from, older(&self.path, number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = open(&self.path)?;
        self.length = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

fn older(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The end of a file, with a whole line in it if there is one; nothing where there is no file.
fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        file => file?,
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(4 * LINE_BYTES_MAX)))?;
    let mut text = Vec::new();
    file.take(4 * LINE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

fn digest(line: &[u8]) -> String {
    Sha256::digest(line).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

fn bounded(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

/// JSON with nothing beyond ASCII in it; only strings had that.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() && c != '\u{7f}' {
            text.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _infallible = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anchorhold_sandbox::Id;
    use proptest::prelude::*;
    use serde_json::Value;
    use std::os::unix::fs::PermissionsExt as _;

    const POLICY: AuditPolicy = AuditPolicy { file_bytes: 4096, files: 3 };

    fn event(target: &str) -> Event {
        Event {
            who: Some((TenantId(Id::random()), KeyId(Id::random()))),
            request: "req_1".into(),
            action: "POST /v1/run".into(),
            target: target.into(),
            subject: None,
            status: 200,
            code: None,
        }
    }

    impl From<Event> for Entry {
        fn from(event: Event) -> Self {
            Self::Event(event, 0)
        }
    }

    /// All lines that are kept, oldest first.
    fn lines(directory: &Path) -> Vec<String> {
        let path = directory.join(FILE);
        let files = (1..10).rev().map(|number| older(&path, number)).chain([path.clone()]);
        let texts = files.filter_map(|file| std::fs::read_to_string(file).ok());
        texts.collect::<String>().lines().map(str::to_owned).collect()
    }

    /// Whether each line knows the one before. Of the first nothing is known that is kept, and one that was torn by a
    /// crash shows that it was.
    fn chained(lines: &[String]) -> bool {
        lines.windows(2).all(|two| match serde_json::from_str::<Value>(&two[1]) {
            Ok(after) => after["prev"] == digest(two[0].as_bytes()),
            Err(_torn) => true,
        })
    }

    fn numbers(lines: &[String]) -> Vec<u64> {
        let number = |line: &String| serde_json::from_str::<Value>(line).ok()?["seq"].as_u64();
        lines.iter().filter_map(number).collect()
    }

    #[test]
    fn the_chain_goes_on_over_rotations_and_restarts_and_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        for life in 0..4u64 {
            let mut log = Log::open(dir.path(), POLICY).unwrap();
            for _ in 0..9 {
                log.append(&event("/v1/run").into()).unwrap();
            }
            let lines = lines(dir.path());
            assert!(chained(&lines));
            assert_eq!(numbers(&lines).last(), Some(&(9 * (life + 1))));
            assert!(numbers(&lines).windows(2).all(|two| two[1] == two[0] + 1));
        }
        let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap()).collect();
        assert_eq!(files.len(), 3);
        for file in files {
            let metadata = file.metadata().unwrap();
            assert!(metadata.len() <= 4096 && metadata.permissions().mode() & 0o777 == 0o600);
        }
        let mut changed = lines(dir.path());
        changed.remove(3);
        assert!(!chained(&changed), "a line was taken out");
        let mut changed = lines(dir.path());
        changed[3] = changed[3].replace("200", "201");
        assert!(!chained(&changed), "a line was changed");
    }

    #[test]
    fn a_torn_line_and_a_full_disk_leave_gaps_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut log = Log::open(dir.path(), POLICY).unwrap();
        log.append(&event("a").into()).unwrap();
        log.append(&event("b").into()).unwrap();
        drop(log);
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 20]).unwrap();
        let mut log = Log::open(dir.path(), POLICY).unwrap();
        log.append(&event("c").into()).unwrap();
        assert_eq!(numbers(&lines(dir.path())), [1, 3]);
        assert!(chained(&lines(dir.path())));

        let file =
            std::mem::replace(&mut log.file, OpenOptions::new().write(true).open("/dev/full").unwrap());
        log.append(&event("d").into()).unwrap_err();
        log.file = file;
        log.skip(2);
        log.append(&event("e").into()).unwrap();
        assert_eq!(numbers(&lines(dir.path())), [1, 3, 7]);
        assert!(chained(&lines(dir.path())));
    }

    #[test]
    fn wrong_keys_do_not_flood_the_log_and_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let audit = Audit::start(dir.path(), AuditPolicy { file_bytes: 1 << 20, files: 2 }).unwrap();
        for _ in 0..500 {
            audit.note(Event { who: None, status: 401, code: Some("unauthorized"), ..event("/") });
        }
        std::thread::sleep(std::time::Duration::from_millis(150));
        audit.note(Event { who: None, status: 401, code: Some("unauthorized"), ..event("/") });
        audit.close();
        let lines = lines(dir.path());
        assert!(lines.len() < 50, "{}", lines.len());
        let told: u64 = lines
            .iter()
            .map(|line| 1 + serde_json::from_str::<Value>(line).unwrap()["suppressed"].as_u64().unwrap_or(0))
            .sum();
        assert_eq!(told, 501);
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_is_one_line_that_says_it(target: String, action: String) {
            let dir = tempfile::tempdir().unwrap();
            let mut log = Log::open(dir.path(), POLICY).unwrap();
            log.append(&Event { action: action.clone(), ..event(&target) }.into()).unwrap();
            let lines = lines(dir.path());
            prop_assert_eq!(lines.len(), 1);
            prop_assert!(lines[0].bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            let line: Value = serde_json::from_str(&lines[0]).unwrap();
            prop_assert_eq!(&line["target"], &Value::from(bounded(&target)));
            prop_assert_eq!(&line["action"], &Value::from(bounded(&action)));
        }

        #[test]
        fn whatever_egress_says_is_one_line_that_says_it(target: Option<String>, rule: String, missed: u64) {
            let dir = tempfile::tempdir().unwrap();
            let mut log = Log::open(dir.path(), POLICY).unwrap();
            let session = SessionId::random();
            let tenant = Id::random().to_string();
            let refused = Refused { tenant, session, target: target.clone(), rule: rule.clone(), missed };
            log.append(&Entry::Refused(refused)).unwrap();
            let lines = lines(dir.path());
            prop_assert_eq!(lines.len(), 1);
            prop_assert!(lines[0].bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            let line: Value = serde_json::from_str(&lines[0]).unwrap();
            prop_assert_eq!(&line["target"], &Value::from(bounded(target.as_deref().unwrap_or("-"))));
            prop_assert_eq!(&line["code"], &Value::from(bounded(&rule)));
            prop_assert_eq!(&line["subject"], &Value::from(format!("ses_{session}")));
        }
    }
}
