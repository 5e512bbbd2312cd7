//! Plays the warden and the API to a cell without walls (`examples/bare.rs`).

#![allow(dead_code, reason = "each test file uses its part")]

use anchorhold_jail::control::Interpreter;
use anchorhold_jail::hatch::{
    Commit, Dialect, Ended, Execute, FileAction, FileAnswer, FileRequest, FromCell, Stream, ToCell,
};
use anchorhold_jail::id::ExecutionId;
use anchorhold_jail::packet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A running cell and a workspace for it.
pub struct Cell {
    pub child: Child,
    pub hatch: OwnedFd,
    pub root: tempfile::TempDir,
}

/// What came of an execution.
#[derive(Debug)]
pub struct Outcome {
    pub ended: Ended,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub values: Vec<Vec<u8>>,
    pub packets: usize,
}

impl Outcome {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

pub const MEMORY: u64 = 512 << 20;

impl Drop for Cell {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Cell {
    /// A cell that said `Prepared`.
    pub fn prepare(words: &[&str]) -> Self {
        let (ours, theirs) = packet::pair().unwrap();
        let program = std::env::current_exe().unwrap();
        let program = program.ancestors().nth(2).unwrap().join("examples/bare");
        let child = Command::new(program).args(words).stdin(Stdio::from(theirs)).spawn().unwrap();
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("workspace")).unwrap();
        std::fs::create_dir(root.path().join("tmp")).unwrap();
        let cell = Self { child, hatch: ours, root };
        assert!(matches!(cell.receive(), FromCell::Prepared));
        cell
    }

    /// A cell that said `Ready`.
    pub fn ready(words: &[&str], memory_bytes: u64) -> Self {
        let cell = Self::prepare(words);
        cell.commit(memory_bytes);
        cell
    }

    pub fn commit(&self, memory_bytes: u64) {
        let root = std::fs::File::open(self.root.path()).unwrap();
        let env = vec![("GREETING".to_owned(), "hello".to_owned())];
        let commit = Commit {
            window: anchorhold_jail::control::Window::default(),
            memory_bytes,
            cpu_millicores: 1000,
            interpreter: Interpreter::Own,
            env,
            uid: 1000,
            require_landlock: false,
        };
        packet::send(&self.hatch, &ToCell::Commit(commit), &[root.as_fd()]).unwrap();
        match self.receive() {
            FromCell::Ready(_) => {}
            other => panic!("{other:?}"),
        }
    }

    pub fn workspace(&self) -> PathBuf {
        self.root.path().join("workspace")
    }

    pub fn send(&self, message: &ToCell, descriptors: &[BorrowedFd<'_>]) {
        packet::send(&self.hatch, message, descriptors).unwrap();
    }

    pub fn receive(&self) -> FromCell {
        packet::receive(&self.hatch).unwrap().0
    }

    pub fn begin(&self, code: &str, change: impl FnOnce(&mut Execute)) -> ExecutionId {
        let mut execute = Execute {
            execution: ExecutionId::random(),
            code: code.to_owned(),
            dialect: Dialect::Own,
            stdin: Vec::new(),
            stdin_open: false,
            env: Vec::new(),
            cwd: None,
            timeout_us: 10_000_000,
            output_bytes: 1 << 20,
        };
        change(&mut execute);
        let id = execute.execution;
        self.send(&ToCell::Execute(execute), &[]);
        id
    }

    pub fn outcome(&self, id: ExecutionId) -> Outcome {
        let (mut stdout, mut stderr, mut values, mut packets) = (Vec::new(), Vec::new(), Vec::new(), 0);
        loop {
            packets += 1;
            match self.receive() {
                FromCell::Output { execution, stream, bytes } if execution == id => match stream {
                    Stream::Stdout => stdout.extend(bytes),
                    Stream::Stderr => stderr.extend(bytes),
                },
                FromCell::Value { execution, json } if execution == id => values.push(json),
                FromCell::Ended(ended) if ended.execution == id => {
                    return Outcome { ended, stdout, stderr, values, packets };
                }
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn run(&self, code: &str) -> Outcome {
        self.run_with(code, |_| {})
    }

    pub fn run_with(&self, code: &str, change: impl FnOnce(&mut Execute)) -> Outcome {
        let id = self.begin(code, change);
        let outcome = self.outcome(id);
        // A cell that lost its interpreter is gone by now.
        let _gone = packet::send(&self.hatch, &ToCell::Acknowledge { execution: id }, &[]);
        outcome
    }

    pub fn ask(&self, path: &str, action: FileAction, pipe: Option<BorrowedFd<'_>>) -> ExecutionId {
        let operation = ExecutionId::random();
        let request = FileRequest { operation, path: path.to_owned(), action };
        self.send(&ToCell::File(request), pipe.as_slice());
        operation
    }

    pub fn answer(&self, id: ExecutionId) -> FileAnswer {
        match self.receive() {
            FromCell::File { operation, answer } if operation == id => answer,
            other => panic!("{other:?}"),
        }
    }

    /// The cell's process ended by itself.
    pub fn ends(mut self) -> bool {
        self.child.wait().unwrap().success()
    }
}
