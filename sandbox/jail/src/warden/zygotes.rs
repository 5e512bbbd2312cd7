//! Zygote processes: started, renewed and replaced here; what happens in them is [`crate::zygote`].

use super::config::Config;
use super::session::Namespaces;
use crate::control::{Class, Digest, Image, Interpreter, Take};
use crate::fault;
use crate::id::CellId;
use crate::packet::{self, PacketError};
use crate::zygote::{CONTROL_FD, IMAGE_FD, Order, UID_VARIABLE};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A zygote is replaced after so many cells, so that they do not all share one layout of memory …
const CELLS_MAX: u32 = 4_096;
/// … or after so long.
const AGE_MAX: Duration = Duration::from_secs(600);
/// When the host's memory ends, cells go before anything else that is ours.
const OOM_SCORE_ADJ: &str = "500";

/// What cells are made of: a class and, for wasm, an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind {
    /// The class.
    pub class: Class,
    /// The image.
    pub image: Option<Digest>,
}

/// An image whose file was opened, and whose digest was found to be true, when the warden started.
#[derive(Debug)]
pub struct OpenImage {
    /// Its name.
    pub image: Image,
    /// The compiled module.
    pub file: File,
}

/// A cell that was ordered and is not born yet.
#[derive(Debug)]
pub struct Unborn {
    /// Its name.
    pub cell: CellId,
    /// The outer end of its hatch.
    pub hatch: OwnedFd,
    /// Whom it is for already, where it is born for somebody.
    pub reserved: Option<Box<Take>>,
    /// What it shall run before anybody takes it, if that is more than what all of its kind begin as.
    pub program: Option<Interpreter>,
}

impl Unborn {
    /// Which pool it is for.
    pub fn shelf(&self, kind: Kind) -> Shelf {
        Shelf { kind, program: self.program }
    }
}

/// What the cells of a pool have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shelf {
    /// What they are made of.
    pub kind: Kind,
    /// What they run already, if that is more than what all of their kind begin as.
    pub program: Option<Interpreter>,
}

/// A zygote process.
#[derive(Debug)]
pub struct Zygote {
    child: Child,
    control: OwnedFd,
    /// It loaded its image.
    pub warm: bool,
    started: Instant,
    ordered: u32,
    unborn: HashMap<u64, Unborn>,
}

impl Zygote {
    /// Starts one; it says [`crate::zygote::Report::Warm`] later.
    pub fn start(config: &Config, kind: Kind, image: Option<&File>) -> io::Result<Self> {
        let (control, theirs) = packet::pair()?;
        let mut command = Command::new(config.cell_program());
        command.arg("zygote").arg(kind.class.to_string());
        command.env_clear().env(UID_VARIABLE, config.warden.zygote_uid.to_string());
        // One heap for all threads of a cell: fewer pages to touch, and less memory.
        command.env("MALLOC_ARENA_MAX", "1");
        if let Ok(step) = std::env::var(fault::VARIABLE) {
            command.env(fault::VARIABLE, step);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let mut inherited = vec![(theirs.as_fd(), CONTROL_FD)];
        inherited.extend(image.map(|file| (file.as_fd(), IMAGE_FD)));
        inherit(&mut command, &inherited);
        let child = command.spawn()?;
        // Its cells inherit it. See proc_pid_oom_score_adj(5).
        if let Err(error) = fs::write(format!("/proc/{}/oom_score_adj", child.id()), OOM_SCORE_ADJ) {
            super::log(&format!("cells are not the kernel's first choice when memory ends: {error}"));
        }
        Ok(Self { child, control, warm: false, started: Instant::now(), ordered: 0, unborn: HashMap::new() })
    }

    /// Its process.
    pub fn pid(&self) -> Option<rustix::process::Pid> {
        rustix::process::Pid::from_raw(self.child.id().cast_signed())
    }

    /// Orders a cell.
    pub fn order(
        &mut self,
        tag: u64,
        unborn: Unborn,
        theirs: &OwnedFd,
        birth: Option<&OwnedFd>,
        home: Option<&Namespaces>,
    ) -> Result<(), PacketError> {
        let mut descriptors = vec![theirs.as_fd()];
        descriptors.extend(birth.map(AsFd::as_fd));
        descriptors.extend(home.into_iter().flat_map(|home| [home.user.as_fd(), home.network.as_fd()]));
        let order = Order::Spawn { tag, grouped: birth.is_some(), joined: home.is_some() };
        packet::send(&self.control, &order, &descriptors)?;
        self.ordered += 1;
        self.unborn.insert(tag, unborn);
        Ok(())
    }

    /// The cell of an order that was reported.
    pub fn delivered(&mut self, tag: u64) -> Option<Unborn> {
        self.unborn.remove(&tag)
    }

    /// Cells that were ordered and never came.
    pub fn undelivered(&mut self) -> Vec<Unborn> {
        self.unborn.drain().map(|(_, unborn)| unborn).collect()
    }

    /// The cells that are on their way.
    pub fn expected(&self) -> impl Iterator<Item = &Unborn> {
        self.unborn.values()
    }

    /// Whether it is time for the next generation.
    pub fn is_old(&self) -> bool {
        self.ordered >= CELLS_MAX || self.started.elapsed() >= AGE_MAX
    }

    /// Ends and reaps it.
    pub fn end(mut self) {
        // Both fail only when it is gone already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl AsFd for Zygote {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

/// Gives a child these descriptors under these numbers.
#[expect(unsafe_code, reason = "the standard library has no way to pass a descriptor under a given number")]
fn inherit(command: &mut Command, descriptors: &[(BorrowedFd<'_>, RawFd)]) {
    let numbers: Vec<(RawFd, RawFd)> =
        descriptors.iter().map(|(fd, number)| (fd.as_raw_fd(), *number)).collect();
    let install = move || {
        // Copies first, above every wanted number, so that no wanted number is overwritten before it was copied.
        let mut copies = [(0, 0); 2];
        for (copy, (from, to)) in copies.iter_mut().zip(&numbers) {
            // SAFETY: duplicates a descriptor that the parent holds until `spawn` returned; no memory is involved.
            let above = unsafe { libc::fcntl(*from, libc::F_DUPFD_CLOEXEC, 64) };
            if above < 0 {
                return Err(io::Error::last_os_error());
            }
            *copy = (above, *to);
        }
        for (from, to) in copies.iter().take(numbers.len()) {
            // SAFETY: runs in the child between fork and exec, where nothing owns `to`; dup2 is async-signal-safe
            // and clears close-on-exec, which is the point.
            if unsafe { libc::dup2(*from, *to) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and calls only fcntl and dup2, which are async-signal-safe: signal-safety(7).
    unsafe { command.pre_exec(install) };
}
