//! What pid 1 and the cell's program say to each other. What the program says is hostile: it is as easily said by what
//! runs in it.

use anchorhold_jail::control::Interpreter;
use anchorhold_jail::hatch::{Dialect, Execute, VALUE_BYTES_MAX};
use bytes::{Buf as _, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io;
use std::os::fd::OwnedFd;
use tokio::net::unix::pipe;

/// The longest first line of what a program says: a letter, a space, a length.
const HEAD_BYTES_MAX: usize = 16;
/// What a Node says first that is there before its session is known. No program of a session's has run in it.
const THERE: &[u8] = b"R 0\n";

/// What a program says.
#[derive(Debug)]
pub(super) enum Said {
    /// It has opened its input.
    InputOpened,
    /// A rich value.
    Value(Vec<u8>),
    /// The execution came to its end.
    Done(Done),
}

/// How an execution ended.
#[derive(Debug, Deserialize)]
pub(super) struct Done {
    #[serde(default)]
    pub(super) error: Option<Box<RawValue>>,
    #[serde(default)]
    pub(super) exit_code: Option<i32>,
}

impl Done {
    pub(super) fn is_success(&self) -> bool {
        self.error.is_none() && self.exit_code.is_none_or(|code| code == 0)
    }
}

/// No more can be heard.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// It closed its end.
    Closed,
    /// What it said is nothing that it may say.
    Nonsense,
}

/// Waits until a Node says that it is there.
pub(super) fn wait_until_there(from: &OwnedFd) -> Result<(), String> {
    let (mut said, mut length) = ([0; THERE.len()], 0);
    while length < said.len() {
        match rustix::io::read(from, &mut said[length..]) {
            Ok(0) => return Err("the program ended before it was there".into()),
            Ok(more) => length += more,
            Err(error) => return Err(format!("hear the program: {error}")),
        }
    }
    if said == THERE { Ok(()) } else { Err("the program says something else than that it is there".into()) }
}

/// Both directions.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) ear: Ear,
    pub(super) mouth: Mouth,
}

impl Talk {
    pub(super) fn new(from: OwnedFd, to: OwnedFd) -> io::Result<Self> {
        let from = pipe::Receiver::from_owned_fd(from)?;
        let to = pipe::Sender::from_owned_fd(to)?;
        Ok(Self {
            ear: Ear { from, unread: BytesMut::new(), closed: false },
            mouth: Mouth { to: Some(to), unsent: BytesMut::new() },
        })
    }
}

/// What the program is told.
#[derive(Debug)]
pub(super) struct Mouth {
    to: Option<pipe::Sender>,
    unsent: BytesMut,
}

impl Mouth {
    /// Says something, as soon as the program reads.
    pub(super) fn tell(&mut self, message: &[u8]) {
        self.unsent.extend_from_slice(message);
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.to.is_some() && !self.unsent.is_empty()
    }

    /// Writes something of what is unsent.
    pub(super) async fn write(&mut self) {
        let Some(to) = &self.to else { return };
        let written = match to.writable().await {
            Ok(()) => to.try_write(&self.unsent),
            Err(error) => Err(error),
        };
        match written {
            Ok(length) => self.unsent.advance(length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // It has ended or does not listen any more.
            Err(_) => self.to = None,
        }
    }
}

/// What it says.
#[derive(Debug)]
pub(super) struct Ear {
    from: pipe::Receiver,
    unread: BytesMut,
    closed: bool,
}

impl Ear {
    /// The next thing. Nothing is lost when the future is dropped. When it can say no more this is told once.
    pub(super) async fn hear(&mut self) -> Result<Said, Broken> {
        loop {
            if let Some(said) = self.parse()? {
                return Ok(said);
            }
            if self.closed {
                std::future::pending::<()>().await;
            }
            if self.from.readable().await.is_err() || !self.fill() {
                self.closed = true;
                return Err(Broken::Closed);
            }
        }
    }

    /// What a program that has ended said last. The runtime may not know yet that there is something to read, so it is
    /// not asked.
    pub(super) fn last(&mut self) -> Option<Said> {
        let mut buffer = [0; 8192];
        loop {
            match self.parse() {
                Ok(Some(said)) => return Some(said),
                Err(_) => return None,
                Ok(None) => match rustix::io::read(&self.from, &mut buffer) {
                    Ok(length) if length > 0 => self.unread.extend_from_slice(&buffer[..length]),
                    Ok(_) | Err(_) => return None,
                },
            }
        }
    }

    /// Reads what there is. `false` at its end.
    fn fill(&mut self) -> bool {
        match self.from.try_read_buf(&mut self.unread) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    fn parse(&mut self) -> Result<Option<Said>, Broken> {
        let head = &self.unread[..self.unread.len().min(HEAD_BYTES_MAX)];
        let Some(end) = head.iter().position(|byte| *byte == b'\n') else {
            return if head.len() < HEAD_BYTES_MAX { Ok(None) } else { Err(self.nonsense()) };
        };
        let line = std::str::from_utf8(&head[..end]).ok().and_then(|line| line.split_once(' '));
        let Some((kind, Ok(length))) = line.map(|(kind, length)| (kind.to_owned(), length.parse::<usize>()))
        else {
            return Err(self.nonsense());
        };
        if length > VALUE_BYTES_MAX {
            return Err(self.nonsense());
        }
        if self.unread.len() < end + 1 + length {
            self.unread.reserve(length);
            return Ok(None);
        }
        self.unread.advance(end + 1);
        let payload = self.unread.split_to(length);
        match &*kind {
            "B" => Ok(Some(Said::InputOpened)),
            "V" => Ok(Some(Said::Value(payload.to_vec()))),
            "D" => serde_json::from_slice(&payload)
                .map(|done| Some(Said::Done(done)))
                .map_err(|_| self.nonsense()),
            _ => Err(self.nonsense()),
        }
    }

    /// Nothing more is heard of what speaks like this.
    fn nonsense(&mut self) -> Broken {
        self.unread.clear();
        self.closed = true;
        Broken::Nonsense
    }
}

/// What a program of this kind is told of an execution.
pub(super) fn job(interpreter: Interpreter, job: &Execute, input: Option<&str>) -> Result<Vec<u8>, String> {
    match interpreter {
        Interpreter::Own => Err("this cell runs nothing".into()),
        Interpreter::Python | Interpreter::Node => {
            let env: std::collections::BTreeMap<_, _> = job.env.iter().cloned().collect();
            Ok(framed(&serde_json::json!({
                "code": job.code,
                "typescript": job.dialect == Dialect::TypeScript,
                "env": env,
                "cwd": job.cwd,
                "input": input,
            })))
        }
        Interpreter::Bash => fields(job, input, &[&job.code]),
        Interpreter::Command | Interpreter::Terminal => {
            let arguments: Vec<String> =
                serde_json::from_str(&job.code).map_err(|e| format!("a command is a list of texts: {e}"))?;
            if arguments.is_empty() {
                return Err("a command needs a program".into());
            }
            let count = arguments.len().to_string();
            let rest: Vec<&str> =
                std::iter::once(&*count).chain(arguments.iter().map(String::as_str)).collect();
            fields(job, input, &rest)
        }
    }
}

/// JSON behind its length.
pub(super) fn framed(message: &serde_json::Value) -> Vec<u8> {
    let json = message.to_string();
    format!("{}\n{json}", json.len()).into_bytes()
}

/// Texts that a shell can read: each ends with a zero byte.
fn fields(job: &Execute, input: Option<&str>, rest: &[&str]) -> Result<Vec<u8>, String> {
    let count = job.env.len().to_string();
    let pairs: Vec<String> = job.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let first = [job.cwd.as_deref().unwrap_or_default(), input.unwrap_or_default(), &count];
    let all = first.into_iter().chain(pairs.iter().map(String::as_str)).chain(rest.iter().copied());
    let mut bytes = Vec::new();
    for field in all {
        if field.contains('\0') {
            return Err("a zero byte cannot be passed to it".into());
        }
        bytes.extend_from_slice(field.as_bytes());
        bytes.push(0);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk() -> (Talk, std::fs::File) {
        let (from, theirs) = rustix::pipe::pipe().unwrap();
        let (_unused, to) = rustix::pipe::pipe().unwrap();
        (Talk::new(from, to).unwrap(), theirs.into())
    }

    #[tokio::test]
    async fn what_is_said_is_bounded_and_understood() {
        use std::io::Write as _;
        let (mut talk, mut program) = talk();
        program.write_all(b"B 0\nV 4\ntrueD 15\n{\"exit_code\":3}").unwrap();
        assert!(matches!(talk.ear.hear().await, Ok(Said::InputOpened)));
        assert!(matches!(talk.ear.hear().await, Ok(Said::Value(json)) if json == b"true"));
        let Ok(Said::Done(done)) = talk.ear.hear().await else { panic!() };
        assert!(!done.is_success() && done.exit_code == Some(3));
        drop(program);
        assert_eq!(talk.ear.hear().await.unwrap_err(), Broken::Closed);
    }

    #[tokio::test]
    async fn nonsense_is_told_once() {
        use std::io::Write as _;
        for said in ["V 99999999\n", "V -1\n", "what is this line of text\n", "Q 0\n", "D 1\n{", "V\n"] {
            let (mut talk, mut program) = talk();
            program.write_all(said.as_bytes()).unwrap();
            assert_eq!(talk.ear.hear().await.unwrap_err(), Broken::Nonsense, "{said}");
        }
    }

    #[test]
    fn a_shell_gets_no_zero_bytes() {
        let mut asked = Execute {
            execution: anchorhold_jail::id::ExecutionId::random(),
            code: "echo".into(),
            dialect: Dialect::Own,
            stdin: vec![],
            stdin_open: false,
            env: vec![("A".into(), "1".into())],
            cwd: None,
            timeout_us: 1,
            output_bytes: 1,
        };
        assert_eq!(job(Interpreter::Bash, &asked, None).unwrap(), b"\0\x001\0A=1\0echo\0");
        asked.code = "a\0b".into();
        assert!(job(Interpreter::Bash, &asked, None).is_err());
        asked.code = "[\"ls\", \"-l\"]".into();
        assert_eq!(job(Interpreter::Command, &asked, Some("/i")).unwrap(), b"\0/i\x001\0A=1\x002\0ls\0-l\0");
        for wrong in ["[]", "ls", "[1]"] {
            asked.code = wrong.into();
            assert!(job(Interpreter::Command, &asked, None).is_err(), "{wrong}");
        }
    }
}
