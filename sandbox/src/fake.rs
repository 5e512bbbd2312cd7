//! A warden and cells for tests: threads that speak the protocols and build no walls.
//!
//! What a cell does with an execution is its code, a word that [`FakeCell::execute`] knows; many of them are hostile.

use anchorhold_jail::control::{
    Boottime, Cause, CellInfo, Class, Digest, FromWarden, Image, Refusal, Take, ToWarden, Tombstone, VERSION,
    Welcome,
};
use anchorhold_jail::egress::SharedCounters;
use anchorhold_jail::hatch::{
    Ended, Entry, EntryKind, Execute, FileAction, FileAnswer, FileError, FileRequest, FromCell, How, Stream,
    ToCell,
};
use anchorhold_jail::id::{CellId, ExecutionId, Id};
use anchorhold_jail::packet;
use anchorhold_jail::walls::{Wall, Walls};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const IMAGE: Digest = Digest([7; 32]);
/// What a cell had used before anybody took it.
const BASE_US: u64 = 1_000;

pub(crate) struct FakeWarden {
    pub(crate) path: PathBuf,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    connection: Option<Arc<OwnedFd>>,
    life: u64,
    cells: HashMap<CellId, Known>,
    tombstones: Vec<Tombstone>,
    /// Does not answer kills any more.
    deaf: bool,
    /// Refuses takes.
    full: bool,
    said: Vec<String>,
}

struct Known {
    info: CellInfo,
    hatch: OwnedFd,
    counters: [File; 4],
    traffic: Arc<SharedCounters>,
    armed: Option<(ExecutionId, Boottime)>,
}

impl FakeWarden {
    pub(crate) fn start() -> Self {
        let path = std::env::temp_dir().join(format!("anchorhold-fake-{}", Id::random()));
        let shared = Arc::new(Mutex::new(Shared::default()));
        let warden = Self { path, shared };
        warden.listen();
        let timer = Arc::downgrade(&warden.shared);
        std::thread::spawn(move || {
            while let Some(shared) = timer.upgrade() {
                shared.lock().unwrap().deadlines();
                drop(shared);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        warden
    }

    fn listen(&self) {
        let flags = SocketFlags::CLOEXEC;
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&self.path).unwrap()).unwrap();
        rustix::net::listen(&listener, 16).unwrap();
        let shared = Arc::downgrade(&self.shared);
        std::thread::spawn(move || {
            while let Ok(connection) = rustix::net::accept(&listener) {
                let Some(shared) = shared.upgrade() else { return };
                let connection = Arc::new(connection);
                std::thread::spawn(move || serve(&shared, &connection));
            }
        });
    }

    /// The warden dies and comes back: its cells die, the connection breaks.
    pub(crate) fn die(&self) {
        let mut shared = self.shared.lock().unwrap();
        shared.life += 1;
        shared.cells.clear();
        shared.hang_up();
    }

    /// The API's end of the connection is cut, as when the API dies.
    pub(crate) fn hang_up(&self) {
        self.shared.lock().unwrap().hang_up();
    }

    pub(crate) fn deaf(&self) {
        self.shared.lock().unwrap().deaf = true;
    }

    pub(crate) fn full(&self, full: bool) {
        self.shared.lock().unwrap().full = full;
    }

    pub(crate) fn cells(&self) -> Vec<CellId> {
        self.shared.lock().unwrap().cells.keys().copied().collect()
    }

    pub(crate) fn end(&self, cell: CellId, cause: Cause) {
        self.shared.lock().unwrap().end(cell, cause);
    }

    pub(crate) fn tombstones(&self) -> Vec<Tombstone> {
        self.shared.lock().unwrap().tombstones.clone()
    }

    /// What it was told, shortly.
    pub(crate) fn said(&self) -> Vec<String> {
        self.shared.lock().unwrap().said.clone()
    }
}

impl Drop for FakeWarden {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.path);
        self.shared.lock().unwrap().hang_up();
    }
}

fn serve(shared: &Arc<Mutex<Shared>>, connection: &Arc<OwnedFd>) {
    while let Ok((message, _)) = packet::receive::<ToWarden>(connection) {
        shared.lock().unwrap().heard(shared, connection, message);
    }
    let mut shared = shared.lock().unwrap();
    if shared.connection.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection)) {
        shared.connection = None;
    }
}

impl Shared {
    fn hang_up(&mut self) {
        if let Some(connection) = self.connection.take() {
            let _closed = rustix::net::shutdown(&connection, rustix::net::Shutdown::Both);
        }
    }

    fn say(&self, message: &FromWarden) {
        if let Some(connection) = &self.connection {
            let _sent = packet::send(connection, message, &[]);
        }
    }

    fn heard(&mut self, shared: &Arc<Mutex<Shared>>, connection: &Arc<OwnedFd>, message: ToWarden) {
        self.said.push(format!("{message:?}").chars().take_while(char::is_ascii_alphabetic).collect());
        match message {
            ToWarden::Hello { version } => {
                assert_eq!(version, VERSION);
                self.hello(connection);
            }
            ToWarden::Take(take) if self.full || take.image.is_some_and(|image| image != IMAGE) => {
                let full = Refusal::Capacity("no room in the test".to_owned());
                let why = if self.full { full } else { Refusal::NoImage };
                self.say(&FromWarden::Refused { tag: take.tag, why });
            }
            ToWarden::Take(take) => self.take(shared, take),
            ToWarden::Arm { cell, execution, at } => {
                if let Some(known) = self.cells.get_mut(&cell) {
                    known.armed = Some((execution, at));
                }
            }
            ToWarden::Disarm { cell } => {
                if let Some(known) = self.cells.get_mut(&cell) {
                    known.armed = None;
                }
            }
            ToWarden::Socket { tag, .. } => self.say(&FromWarden::Socket { tag }),
            ToWarden::Kill { cell } if !self.deaf => self.end(cell, Cause::Killed),
            ToWarden::Kill { .. }
            | ToWarden::Freeze { .. }
            | ToWarden::Renew { .. }
            | ToWarden::Reroute { .. }
            | ToWarden::Shutdown => {}
            ToWarden::EndSession { session } => {
                let of_session = |known: &&Known| known.info.session == session;
                let cells: Vec<_> =
                    self.cells.values().filter(of_session).map(|known| known.info.cell).collect();
                cells.into_iter().for_each(|cell| self.end(cell, Cause::Killed));
                self.say(&FromWarden::SessionEnded { session });
            }
            ToWarden::Acknowledge { cell } => self.tombstones.retain(|tombstone| tombstone.cell != cell),
        }
    }

    fn hello(&mut self, connection: &Arc<OwnedFd>) {
        self.connection = Some(Arc::clone(connection));
        let image = Image {
            name: "fake".to_owned(),
            class: Class::Wasm,
            language: "python".to_owned(),
            digest: IMAGE,
        };
        self.say(&FromWarden::Welcome(Welcome {
            life: self.life,
            images: vec![image],
            cells: u32::try_from(self.cells.len()).unwrap(),
            tombstones: u32::try_from(self.tombstones.len()).unwrap(),
        }));
        for known in self.cells.values() {
            known.send(connection, &FromWarden::Cell(known.info.clone()));
        }
        for tombstone in &self.tombstones {
            self.say(&FromWarden::CellEnded(tombstone.clone()));
        }
    }

    fn take(&mut self, shared: &Arc<Mutex<Shared>>, take: Take) {
        let (hatch, inside) = packet::pair().unwrap();
        let counters = [
            counter(&cpu_text(BASE_US)),
            counter("anon 1048576\nshmem 0\n"),
            counter("2097152\n"),
            counter("oom_kill 0\n"),
        ];
        let class = if take.image.is_some() { Class::Wasm } else { Class::Files };
        let info = CellInfo {
            cell: CellId::random(),
            session: take.session,
            class,
            image: take.image,
            cpu_base_us: BASE_US,
        };
        let traffic = Arc::new(SharedCounters::create().unwrap());
        let cell = FakeCell {
            id: info.cell,
            traffic: Arc::clone(&traffic),
            hatch: Arc::new(inside),
            cpu: counters[0].try_clone().unwrap(),
            memory: counters[1].try_clone().unwrap(),
            running: None,
            said: Vec::new(),
            cancelled: Arc::default(),
        };
        let known = Known { info: info.clone(), hatch, counters, traffic, armed: None };
        let mut walls = Walls::default();
        walls.push("seccomp", Wall::Absent("a test".to_owned()));
        if let Some(connection) = &self.connection {
            known.send(connection, &FromWarden::Taken { tag: take.tag, info, walls, commit_us: 0 });
        }
        self.cells.insert(known.info.cell, known);
        let warden = Arc::clone(shared);
        std::thread::spawn(move || {
            let id = cell.id;
            if let Some(cause) = cell.live(class) {
                warden.lock().unwrap().end(id, cause);
            }
        });
    }

    fn end(&mut self, cell: CellId, cause: Cause) {
        let Some(known) = self.cells.remove(&cell) else { return };
        // The cell's thread sees the end of its hatch when the API has dropped it, too.
        let _closed = rustix::net::shutdown(&known.hatch, rustix::net::Shutdown::Both);
        let tombstone = Tombstone {
            cell,
            session: known.info.session,
            cause,
            cpu_us: cpu_of(&known.counters[0]) - BASE_US,
            memory_peak_bytes: 4 << 20,
            oom_kills: u64::from(cause == Cause::OutOfMemory),
            traffic: known.traffic.read(),
            browser: None,
        };
        self.tombstones.push(tombstone.clone());
        self.say(&FromWarden::CellEnded(tombstone));
    }

    fn deadlines(&mut self) {
        let now = Boottime::now();
        let late =
            |known: &Known| known.armed.filter(|(_, at)| *at <= now).map(|(id, _)| (known.info.cell, id));
        let late: Vec<_> = self.cells.values().filter_map(late).collect();
        let deaf = self.deaf;
        for (cell, execution) in late.into_iter().filter(|_| !deaf) {
            self.end(cell, Cause::Deadline(execution));
        }
    }
}

impl Known {
    fn send(&self, connection: &OwnedFd, message: &FromWarden) {
        let traffic = self.traffic.reader().unwrap();
        let mut descriptors = vec![self.hatch.as_fd()];
        descriptors.extend(self.counters.iter().map(AsFd::as_fd));
        descriptors.push(traffic.as_fd());
        let _sent = packet::send(connection, message, &descriptors);
    }
}

fn counter(text: &str) -> File {
    let file = rustix::fs::memfd_create("counter", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(file);
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn cpu_text(us: u64) -> String {
    // Of a fixed length, so that a shorter number leaves nothing of a longer one.
    format!("{:020}\n", us * 1000)
}

fn cpu_of(file: &File) -> u64 {
    let mut text = [0; 20];
    file.read_exact_at(&mut text, 0).unwrap();
    std::str::from_utf8(&text).unwrap().parse::<u64>().unwrap() / 1000
}

struct FakeCell {
    id: CellId,
    hatch: Arc<OwnedFd>,
    traffic: Arc<SharedCounters>,
    cpu: File,
    memory: File,
    running: Option<ExecutionId>,
    /// Not acknowledged.
    said: Vec<(ExecutionId, Vec<Vec<u8>>, Option<Ended>)>,
    /// Uploads that were cancelled: their end was said.
    cancelled: Arc<Mutex<Vec<ExecutionId>>>,
}

impl FakeCell {
    /// What ended it, when it was not the warden.
    fn live(mut self, class: Class) -> Option<Cause> {
        let _class = class;
        loop {
            let Ok((message, descriptors)) = packet::receive::<ToCell>(&self.hatch) else { return None };
            match message {
                ToCell::Execute(execute) => {
                    if let Some(cause) = self.execute(&execute) {
                        return Some(cause);
                    }
                }
                ToCell::Cancel { execution } if self.running == Some(execution) => {
                    self.end(execution, |ended| ended.how = How::Cancelled);
                }
                ToCell::Cancel { execution } => {
                    // An upload's: what is in its pipe does not count.
                    self.cancelled.lock().unwrap().push(execution);
                    let refused = FileAnswer::Refused(FileError::Incomplete);
                    self.say(&FromCell::File { operation: execution, answer: refused });
                }
                ToCell::Attach { generation } => self.attach(generation),
                ToCell::Acknowledge { execution } => self.said.retain(|(id, ..)| *id != execution),
                ToCell::File(request) => self.file(&request, descriptors),
                ToCell::Input { .. }
                | ToCell::Complete { .. }
                | ToCell::Prepare { .. }
                | ToCell::Commit(_)
                | ToCell::Watch => {}
            }
        }
    }

    /// Whether anybody listens.
    fn try_say(&self, message: &FromCell) -> bool {
        packet::send(&self.hatch, message, &[]).is_ok()
    }

    fn say(&self, message: &FromCell) {
        let _heard = self.try_say(message);
    }

    fn try_raw(&self, packet: &[u8]) -> bool {
        rustix::net::send(&self.hatch, packet, SendFlags::NOSIGNAL).is_ok()
    }

    fn print(&mut self, execution: ExecutionId, text: &[u8]) {
        if let Some((_, output, _)) = self.said.iter_mut().find(|(id, ..)| *id == execution) {
            output.push(text.to_vec());
        }
        self.say(&FromCell::Output { execution, stream: Stream::Stdout, bytes: text.to_vec() });
    }

    fn end(&mut self, execution: ExecutionId, change: impl FnOnce(&mut Ended)) {
        self.running = None;
        let mut ended = Ended {
            execution,
            how: How::Succeeded,
            error: None,
            exit_code: None,
            wall_us: 5,
            stdout_bytes: 3,
            stderr_bytes: 0,
            state_lost: false,
            memory_refused: false,
        };
        change(&mut ended);
        if let Some((.., last)) = self.said.iter_mut().find(|(id, ..)| *id == execution) {
            *last = Some(ended.clone());
        }
        self.say(&FromCell::Ended(ended));
    }

    fn burn(&self, us: u64) {
        let text = cpu_text(cpu_of(&self.cpu) + us);
        self.cpu.write_all_at(text.as_bytes(), 0).unwrap();
    }

    /// A third of it is sent, the rest received.
    fn transfer(&self, bytes: u64) {
        self.traffic.sent().fetch_add(bytes / 3, Ordering::Relaxed);
        self.traffic.received().fetch_add(bytes - bytes / 3, Ordering::Relaxed);
    }

    fn attach(&mut self, generation: u64) {
        let executions = self.said.iter().map(|(id, ..)| *id).collect();
        self.say(&FromCell::Attached { generation, executions });
        for (execution, output, ended) in &self.said {
            for bytes in output {
                let (execution, bytes) = (*execution, bytes.clone());
                self.say(&FromCell::Output { execution, stream: Stream::Stdout, bytes });
            }
            if let Some(ended) = ended {
                self.say(&FromCell::Ended(ended.clone()));
            }
        }
    }

    fn execute(&mut self, execute: &Execute) -> Option<Cause> {
        let id = execute.execution;
        self.running = Some(id);
        self.said.push((id, Vec::new(), None));
        let (word, number) = execute.code.split_once(':').unwrap_or((&execute.code, "0"));
        let number: u64 = number.parse().unwrap();
        match word {
            "quick" => self.end(id, |ended| ended.stdout_bytes = 0),
            "print" => {
                self.print(id, b"hi\n");
                self.say(&FromCell::Value { execution: id, json: b"{\"a\":[1]}".to_vec() });
                self.end(id, |_| {});
            }
            "burn" => {
                self.burn(number);
                self.end(id, |_| {});
            }
            "transfer" => {
                self.transfer(number);
                self.end(id, |_| {});
            }
            "transfer_and_die" => {
                self.transfer(number);
                return Some(Cause::Ended);
            }
            "grow" => {
                self.memory.write_all_at(b"anon 3145728\n", 0).unwrap();
                std::thread::sleep(Duration::from_millis(20));
                self.end(id, |ended| ended.memory_refused = true);
            }
            "wait" => self.print(id, b"hi\n"),
            "burn_and_wait" => self.burn(number),
            // Until its hatch is closed: it does not even read.
            "hang" => {
                while self.try_say(&FromCell::Value { execution: id, json: b"1".to_vec() }) && number == 1 {}
            }
            "exit" => self.end(id, |ended| ended.exit_code = Some(3)),
            "crash" => self.end(id, |ended| (ended.how, ended.state_lost) = (How::Crashed, true)),
            "crash_for_memory" => {
                self.burn(500);
                self.end(id, |ended| {
                    (ended.how, ended.state_lost, ended.memory_refused) = (How::Crashed, true, true);
                });
            }
            "die" => {
                self.burn(700);
                self.print(id, b"hi\n");
                return Some(Cause::Ended);
            }
            "last_words" => {
                self.print(id, b"hi\n");
                self.end(id, |ended| (ended.how, ended.state_lost) = (How::TimedOut, true));
                return Some(Cause::Ended);
            }
            "oom" => return Some(Cause::OutOfMemory),
            hostile => self.attack(hostile, id),
        }
        if word == "hang" {
            std::thread::sleep(Duration::from_secs(20));
        }
        None
    }

    fn attack(&mut self, how: &str, id: ExecutionId) {
        let output = |bytes: Vec<u8>| FromCell::Output { execution: id, stream: Stream::Stdout, bytes };
        let value = |json: Vec<u8>| FromCell::Value { execution: id, json };
        match how {
            "garbage" => {
                self.try_raw(&[0, 250, 250, 250]);
            }
            "flag" => {
                self.try_raw(&[9, 1]);
            }
            "endless_message" => while self.try_raw(&[vec![1], vec![b'x'; 30_000]].concat()) {},
            "wrong_id" => self.say(&FromCell::Output {
                execution: ExecutionId::random(),
                stream: Stream::Stdout,
                bytes: vec![1],
            }),
            "endless_output" => while self.try_say(&output(vec![b'x'; 10_000])) {},
            "empty_output" => while self.try_say(&output(Vec::new())) {},
            "long_output" => self.say(&output(vec![b'x'; 20_000])),
            "long_value" => self.say(&value(vec![b'1'; 3 << 20])),
            "endless_values" => while self.try_say(&value(b"1".to_vec())) {},
            "cancelled" => self.end(id, |ended| ended.how = How::Cancelled),
            "other_end" => self.end(ExecutionId::random(), |_| {}),
            "prepared" => self.say(&FromCell::Prepared),
            "attached" => {
                self.say(&FromCell::Attached { generation: 0, executions: Vec::new() });
            }
            "file" => self.say(&FromCell::File { operation: id, answer: FileAnswer::Done }),
            "descriptors" => {
                let message = output(b"x".to_vec());
                drop(packet::send(&self.hatch, &message, &[self.hatch.as_fd(), self.cpu.as_fd()]));
            }
            "bad_json" => {
                for json in [&b"[1,"[..], b"\xff", &b"[".repeat(100_000), b"1e999", b"2"] {
                    self.say(&value(json.to_vec()));
                }
                self.end(id, |ended| {
                    (ended.how, ended.error) = (How::Failed, Some(b"[".repeat(1000)));
                    ended.stdout_bytes = u64::MAX;
                });
            }
            "many_values" => {
                for _ in 0..12 {
                    self.say(&value([&b"\""[..], &vec![b'a'; 1_900_000], b"\""].concat()));
                }
                self.end(id, |_| {});
            }
            "twice" => {
                self.end(id, |_| {});
                self.end(id, |_| {});
            }
            "hang_up" => drop(rustix::net::shutdown(&self.hatch, rustix::net::Shutdown::Both)),
            other => panic!("no such code: {other}"),
        }
    }

    fn file(&mut self, request: &FileRequest, descriptors: Vec<OwnedFd>) {
        let operation = request.operation;
        let pipe = descriptors.into_iter().next().map(File::from);
        let say = |cell: &Self, answer| cell.say(&FromCell::File { operation, answer });
        let try_say = |cell: &Self, answer| cell.try_say(&FromCell::File { operation, answer });
        match (&request.action, request.path.as_str()) {
            (_, "silent") => {}
            (FileAction::Upload { .. }, "refused") => say(self, FileAnswer::Refused(FileError::NoSpace)),
            (FileAction::Upload { .. }, "hasty") => {
                say(self, FileAnswer::Written { size: 100_000, sha256: [0; 32] });
            }
            (&FileAction::Upload { length }, path) => {
                let (mut pipe, hatch, path) = (pipe.unwrap(), Arc::clone(&self.hatch), path.to_owned());
                let cancelled = Arc::clone(&self.cancelled);
                // Apart, so that the cell goes on reading its hatch.
                std::thread::spawn(move || {
                    let mut content = Vec::new();
                    pipe.read_to_end(&mut content).unwrap();
                    let size = content.len() as u64;
                    let answer = match length {
                        Some(length) if length != size => FileAnswer::Refused(FileError::Incomplete),
                        _ => FileAnswer::Written { size, sha256: [path.len().try_into().unwrap(); 32] },
                    };
                    if !cancelled.lock().unwrap().contains(&operation) {
                        let _sent = packet::send(&hatch, &FromCell::File { operation, answer }, &[]);
                    }
                });
            }
            (FileAction::Download { .. }, lie @ ("longer" | "shorter" | "exact")) => {
                let mut pipe = pipe.unwrap();
                say(self, FileAnswer::Found(entry(lie, 300_000)));
                let size = match lie {
                    "longer" => 900_000,
                    "shorter" => 200_000,
                    _ => 300_000,
                };
                // Fails when the reader has enough.
                let sent = pipe.write_all(&vec![b'z'; size]).is_ok();
                drop(pipe);
                say(self, if sent { FileAnswer::Done } else { FileAnswer::Refused(FileError::Other(32)) });
            }
            (FileAction::Pack { .. }, lie @ ("exact" | "cut")) => {
                say(self, FileAnswer::Begun);
                let size = if lie == "cut" { 200_000 } else { 300_000 };
                pipe.unwrap().write_all(&vec![b'z'; size]).unwrap();
                say(self, FileAnswer::Packed { bytes: 300_000 });
            }
            (FileAction::Pack { .. }, "dies") => {
                say(self, FileAnswer::Begun);
                pipe.unwrap().write_all(b"half").unwrap();
                say(self, FileAnswer::Refused(FileError::Incomplete));
            }
            (FileAction::Pack { .. }, "hasty") => say(self, FileAnswer::Packed { bytes: 0 }),
            (FileAction::Batch(_), _) => {
                say(self, FileAnswer::Failed { index: 1, why: FileError::Conflict });
            }
            (FileAction::Stat, "a") => say(self, FileAnswer::Found(entry("a", 3))),
            (FileAction::Stat, "lie") => say(self, FileAnswer::Written { size: 1, sha256: [0; 32] }),
            (FileAction::List { .. }, "endless") => {
                while try_say(self, FileAnswer::Entries(vec![entry("x", 1); 1000])) {}
            }
            (FileAction::List { .. }, "dir") => {
                say(self, FileAnswer::Entries(vec![entry("x", 1); 1000]));
                say(self, FileAnswer::Entries(vec![entry("y", 1)]));
                say(self, FileAnswer::Done);
            }
            (FileAction::Delete { .. }, "a") => say(self, FileAnswer::Done),
            _ => say(self, FileAnswer::Refused(FileError::NotFound)),
        }
    }
}

/// A file as a listing has it.
fn entry(path: &str, size: u64) -> Entry {
    Entry { path: path.to_owned(), kind: EntryKind::File, size, mode: 0o644, modified_us: 0 }
}
