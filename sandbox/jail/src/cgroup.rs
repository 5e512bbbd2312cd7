//! Control groups: limits, counters and removal, on v1, v2 and hybrid hosts.
//!
//! The tree is `<parent>/<group>/<session>/<cell>`. A session's group holds its limits for as long as its workspace
//! lives; a cell's group holds its counters. Limit files are written by cgroups-rs, which knows both layouts' names;
//! counters, birth and removal are ours.
//!
//! | layout | limits and counters | birth |
//! |---|---|---|
//! | v2 | one tree | `<parent>/pool`, moved into the session's tree when it is taken |
//! | hybrid | v1 memory, pids, cpu; CPU time from v2 | a group of its own in the empty v2 tree (a move there costs 0.4 ms) |
//! | v1 | v1 memory, pids, cpu, cpuacct | with its zygote |

use crate::control::CellLimits;
use crate::counters::{Counters, Reading};
use crate::id::{CellId, GroupId, SessionId};
use cgroups_rs::MaxValue;
use cgroups_rs::cpu::CpuController;
use cgroups_rs::memory::MemController;
use cgroups_rs::pid::PidController;
use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Tasks of a session that are ours: pid 1 and the control thread of each of its cells.
const OWN_TASKS: u32 = 64;
/// Period of the CPU quota, in microseconds.
const PERIOD_US: u64 = 100_000;
/// Parts of what a group usually weighs for the processors, which is the kernel's default.
const USUAL: u64 = 64;
/// How long processes that were killed may take to leave their group.
const EMPTY_WAIT: Duration = Duration::from_secs(5);

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No usable layout.
    #[error("no usable cgroup layout: {0}")]
    Layout(&'static str),
    /// A file or directory.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    /// A limit file.
    #[error("set a limit: {0}")]
    Limit(String),
}

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, CgroupError> {
    result.map_err(|e| CgroupError::Io(path.to_owned(), e))
}

/// Where this host keeps which controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// One v2 tree with all controllers.
    V2 {
        /// Its mount point.
        root: PathBuf,
    },
    /// Controllers on v1 hierarchies.
    V1 {
        /// Mount point of `memory`.
        memory: PathBuf,
        /// Mount point of `pids`.
        pids: PathBuf,
        /// Mount point of `cpu`.
        cpu: PathBuf,
        /// Where CPU time is counted.
        time: Time,
    },
}

/// Where a v1 host counts CPU time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Time {
    /// In the v2 tree of a hybrid host.
    Unified(PathBuf),
    /// In the `cpuacct` hierarchy.
    Cpuacct(PathBuf),
}

impl Layout {
    /// Reads it from `/proc/self/mounts`.
    pub fn probe() -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mounts");
        Self::from_mounts(&at(path, fs::read_to_string(path))?)
    }

    fn from_mounts(mounts: &str) -> Result<Self, CgroupError> {
        let lines: Vec<Vec<&str>> = mounts.lines().map(|line| line.split(' ').collect()).collect();
        let v2 = lines.iter().find(|f| f.get(2) == Some(&"cgroup2")).map(|f| PathBuf::from(f[1]));
        let v1 = |controller: &str| {
            let has = |f: &&Vec<&str>| {
                f.get(2) == Some(&"cgroup") && f.get(3).is_some_and(|o| o.split(',').any(|o| o == controller))
            };
            lines.iter().find(has).map(|f| PathBuf::from(f[1]))
        };
        match (v1("memory"), v1("pids"), v1("cpu")) {
            (Some(memory), Some(pids), Some(cpu)) => {
                let time = match (v2, v1("cpuacct")) {
                    (Some(root), _) => Time::Unified(root),
                    (None, Some(root)) => Time::Cpuacct(root),
                    (None, None) => return Err(CgroupError::Layout("nothing counts CPU time")),
                };
                Ok(Self::V1 { memory, pids, cpu, time })
            }
            (None, None, None) => v2
                .map(|root| Self::V2 { root })
                .ok_or(CgroupError::Layout("no cgroup file system is mounted")),
            _ => Err(CgroupError::Layout("controllers are split between v1 and v2")),
        }
    }

    /// The mount whose options decide how quickly processes move ([`crate::dynmods`]).
    pub fn moves(&self) -> &Path {
        match self {
            Self::V2 { root } | Self::V1 { time: Time::Unified(root), .. } => root,
            Self::V1 { memory, .. } => memory,
        }
    }

    /// `v1`, `v2` or `hybrid`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::V2 { .. } => "v2",
            Self::V1 { time: Time::Unified(_), .. } => "hybrid",
            Self::V1 { time: Time::Cpuacct(_), .. } => "v1",
        }
    }
}

/// Our part of the host's groups.
#[derive(Debug)]
pub struct Tree {
    layout: Layout,
    parent: String,
}

/// A cell's groups. Removed by [`Tree::remove_cell`].
#[derive(Debug)]
pub struct CellGroup {
    memory: PathBuf,
    /// Where its CPU time is counted, if that is another group than `memory`.
    time: Option<PathBuf>,
}

/// What a life of the warden that ended badly left of a cell.
#[derive(Debug, Clone, Copy)]
pub struct Remains {
    /// The cell.
    pub cell: CellId,
    /// Whose it was.
    pub session: SessionId,
    /// The last counters.
    pub reading: Reading,
}

impl Tree {
    /// Makes `<parent>` in every hierarchy, capped at `memory_bytes`, with a `pool` for zygotes and cells that nobody
    /// took. `zygote_uid` may have cells born beneath it.
    pub fn create(
        layout: Layout,
        parent: &str,
        memory_bytes: u64,
        zygote_uid: u32,
    ) -> Result<Self, CgroupError> {
        let tree = Self { layout, parent: parent.to_owned() };
        for root in tree.session_roots() {
            make(&root.join(parent))?;
        }
        match &tree.layout {
            Layout::V2 { root } => {
                delegate(root)?;
                delegate(&root.join(parent))?;
            }
            Layout::V1 { time: Time::Unified(root), .. } => {
                make(&root.join(parent))?;
            }
            Layout::V1 { .. } => {}
        }
        tree.limit_memory(Path::new(parent), memory_bytes)?;
        for root in tree.session_roots() {
            make(&root.join(parent).join("pool"))?;
        }
        tree.favor_pool()?;
        if let Some(root) = tree.unified() {
            // Birth in a group needs write access to the nearest group above both it and the zygote: clone(2),
            // CLONE_INTO_CGROUP.
            make(&root.join(parent).join("pool"))?;
            for group in [root.join(parent), root.join(parent).join("pool")] {
                give_procs(&group, zygote_uid)?;
            }
        }
        Ok(tree)
    }

    fn v2(&self) -> bool {
        matches!(self.layout, Layout::V2 { .. })
    }

    fn unified(&self) -> Option<&Path> {
        match &self.layout {
            Layout::V2 { root } | Layout::V1 { time: Time::Unified(root), .. } => Some(root),
            Layout::V1 { .. } => None,
        }
    }

    /// Mount points of the hierarchies in which sessions have groups.
    fn session_roots(&self) -> Vec<&Path> {
        match &self.layout {
            Layout::V2 { root } => vec![root],
            Layout::V1 { memory, pids, cpu, time: Time::Cpuacct(time) } if time != cpu => {
                vec![memory, pids, cpu, time]
            }
            Layout::V1 { memory, pids, cpu, .. } => vec![memory, pids, cpu],
        }
    }

    fn all_roots(&self) -> Vec<&Path> {
        let mut roots = self.session_roots();
        if let Layout::V1 { time: Time::Unified(root), .. } = &self.layout {
            roots.push(root);
        }
        roots
    }

    /// Where a cell's CPU time is counted, if not where its memory is. `cpu` and `cpuacct` are one hierarchy on most v1
    /// hosts, so this is below the session's group, whose quota then holds.
    fn time_path(&self, (group, session): (GroupId, SessionId), cell: CellId) -> Option<PathBuf> {
        match &self.layout {
            Layout::V2 { .. } => None,
            Layout::V1 { time: Time::Unified(root), .. } => {
                Some(root.join(&self.parent).join(cell_name(cell)))
            }
            Layout::V1 { time: Time::Cpuacct(root), .. } => {
                Some(root.join(self.session_path(group, session)).join(cell_name(cell)))
            }
        }
    }

    fn memory_root(&self) -> &Path {
        match &self.layout {
            Layout::V2 { root } => root,
            Layout::V1 { memory, .. } => memory,
        }
    }

    fn limit_memory(&self, group: &Path, bytes: u64) -> Result<(), CgroupError> {
        let path = self.memory_root().join(group);
        let controller = MemController::new(path.clone(), self.v2());
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        controller.set_limit(bytes).map_err(limit_error)?;
        // Without swap accounting the file is missing: then there is no swap to use either, or doctor says so.
        let swap = path.join(if self.v2() { "memory.swap.max" } else { "memory.memsw.limit_in_bytes" });
        if swap.exists() {
            controller.set_memswap_limit(if self.v2() { 0 } else { bytes }).map_err(limit_error)?;
        }
        Ok(())
    }

    /// Gives one of our groups so many parts of the usual weight for the processors, which has [`USUAL`] of them.
    fn weigh(&self, group: &Path, parts: u64) -> Result<(), CgroupError> {
        let (root, usual) = match &self.layout {
            Layout::V2 { root } => (root, 100),
            Layout::V1 { cpu, .. } => (cpu, 1024),
        };
        CpuController::new(root.join(group), self.v2()).set_shares(usual * parts / USUAL).map_err(limit_error)
    }

    /// A pool that starves is what neighbours of a hostile group feel first: it gets four times the share of a group.
    fn favor_pool(&self) -> Result<(), CgroupError> {
        self.weigh(&Path::new(&self.parent).join("pool"), 4 * USUAL)
    }

    /// Gives a group a sixty-fourth of the weight of others, or the same again. Nothing depends on it: where the group is
    /// gone, all groups are equals.
    ///
    /// So little, because the kernel (6.18) lets two processes that wake each other all the time run on for a multiple of what
    /// their weight gives them, while others wait: with a sixteenth, a neighbour of such a pair waited twice as long.
    ///
    /// Not `cpu.idle`: that is so little weight that the kernel cannot tell any more how it is spread over the processors,
    /// and leaves two equal sessions of such a group with a third and two thirds of them, for as long as they run.
    pub fn put_last(&self, group: GroupId, last: bool) {
        let group = Path::new(&self.parent).join(group.to_string());
        let _equals = self.weigh(&group, if last { 1 } else { USUAL });
    }

    /// Gives all groups together a sixteenth of their weight beside what else there is on the host, or all of it again.
    pub fn put_all_last(&self, last: bool) {
        let _as_it_was = self.weigh(Path::new(&self.parent), if last { USUAL / 16 } else { USUAL });
    }

    /// Attaches a zygote to the pool.
    pub fn attach_zygote(&self, pid: Pid) -> Result<(), CgroupError> {
        self.all_roots().into_iter().try_for_each(|root| {
            let pool = root.join(&self.parent).join("pool");
            if pool.exists() { attach(&pool, pid) } else { Ok(()) }
        })
    }

    /// Where the next cell is to be born, where the kernel can do that.
    pub fn birth(&self, cell: CellId, zygote_uid: u32) -> Result<Option<OwnedFd>, CgroupError> {
        let Some(root) = self.unified() else { return Ok(None) };
        let group = if self.v2() {
            root.join(&self.parent).join("pool")
        } else {
            root.join(&self.parent).join(cell_name(cell))
        };
        if !self.v2() {
            make(&group)?;
            give_procs(&group, zygote_uid)?;
        }
        let directory =
            rustix::fs::open(&group, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        at(&group, directory.map_err(io::Error::from)).map(Some)
    }

    /// Makes a session's group and writes its limits.
    pub fn open_session(
        &self,
        group: GroupId,
        session: SessionId,
        limits: &CellLimits,
    ) -> Result<(), CgroupError> {
        let path = self.session_path(group, session);
        for root in self.session_roots() {
            let above = root.join(&self.parent).join(group.to_string());
            if make(&above)? && self.v2() {
                delegate(&above)?;
            }
            make(&root.join(&path))?;
            if self.v2() {
                delegate(&root.join(&path))?;
            }
        }
        // Files in the workspace are memory too, and stay charged until they are deleted.
        self.limit_memory(&path, limits.memory_bytes.saturating_add(limits.disk_bytes))?;
        let (pids, cpu) = match &self.layout {
            Layout::V2 { root } => (root, root),
            Layout::V1 { pids, cpu, .. } => (pids, cpu),
        };
        let pids = pids.join(&path);
        PidController::new(pids, self.v2())
            .set_pid_max(MaxValue::Value(i64::from(limits.processes.saturating_add(OWN_TASKS))))
            .map_err(limit_error)?;
        let cpu = cpu.join(&path);
        let quota = i64::from(limits.cpu_millicores) * i64::try_from(PERIOD_US / 1000).unwrap_or(100);
        CpuController::new(cpu, self.v2())
            .set_cfs_quota_and_period(Some(quota), Some(PERIOD_US))
            .map_err(limit_error)
    }

    /// Moves a prepared cell, given by its pid 1, into its session's group, with everything that it holds ready. What those
    /// have allocated until now stays on the pool's account.
    pub fn admit(
        &self,
        group: GroupId,
        session: SessionId,
        cell: CellId,
        pid: Pid,
    ) -> Result<CellGroup, CgroupError> {
        let session_path = self.session_path(group, session);
        let memory = self.memory_root().join(session_path.join(cell_name(cell)));
        make(&memory)?;
        let mut groups = vec![memory.clone()];
        let time = self.time_path((group, session), cell);
        if let Layout::V1 { pids, cpu, time: kept, .. } = &self.layout {
            groups.extend([pids.join(&session_path), cpu.join(&session_path)]);
            if let (Time::Cpuacct(_), Some(path)) = (kept, &time) {
                make(path)?;
                groups.push(path.clone());
            }
        }
        // A process that one of them started meanwhile is seen the next time; its own are born where it is.
        let mut moved = HashSet::new();
        loop {
            let mut new = members(pid)?;
            new.retain(|pid| moved.insert(*pid));
            if new.is_empty() {
                return Ok(CellGroup { memory, time });
            }
            for (group, &one) in groups.iter().flat_map(|group| new.iter().map(move |one| (group, one))) {
                match attach(group, one) {
                    // It ended meanwhile, as Chromium's helpers do. A cell without its pid 1 is none.
                    Err(CgroupError::Io(_, error)) if is_gone(&error) && one != pid => {}
                    attached => attached?,
                }
            }
        }
    }

    /// Opens a cell's counters.
    pub fn counters(&self, group: &CellGroup) -> Result<Counters, CgroupError> {
        let time = group.time.as_deref().unwrap_or(&group.memory);
        let (cpu, peak, oom) = match &self.layout {
            Layout::V2 { .. } => ("cpu.stat", "memory.peak", "memory.events.local"),
            Layout::V1 { time: Time::Unified(_), .. } => {
                ("cpu.stat", "memory.max_usage_in_bytes", "memory.oom_control")
            }
            Layout::V1 { .. } => ("cpuacct.usage", "memory.max_usage_in_bytes", "memory.oom_control"),
        };
        let mut peak = group.memory.join(peak);
        if self.v2() && !peak.exists() {
            // Before Linux 5.19: the last is the most that is known.
            peak.set_file_name("memory.current");
        }
        let files = [time.join(cpu), group.memory.join("memory.stat"), peak, group.memory.join(oom)];
        let open = |path: &PathBuf| at(path, fs::File::open(path).map(OwnedFd::from));
        let descriptors = files.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        Counters::from_descriptors(descriptors).ok_or(CgroupError::Layout("counters"))
    }

    /// Stops the processes of a session's cell, or lets them go on; `false` where only v1 knows how, whose frozen processes
    /// cannot be killed. See "Core Interface Files" in the kernel's `admin-guide/cgroup-v2.rst`.
    pub fn freeze(
        &self,
        (group, session): (GroupId, SessionId),
        cell: CellId,
        frozen: bool,
    ) -> Result<bool, CgroupError> {
        let path = match &self.layout {
            Layout::V2 { root } => root.join(self.session_path(group, session)).join(cell_name(cell)),
            Layout::V1 { time: Time::Unified(root), .. } => root.join(&self.parent).join(cell_name(cell)),
            Layout::V1 { .. } => return Ok(false),
        };
        let path = path.join("cgroup.freeze");
        at(&path, fs::write(&path, if frozen { "1" } else { "0" })).map(|()| true)
    }

    /// Removes the groups of a cell whose processes are gone; also those in its session, if it came as far.
    pub fn remove_cell(
        &self,
        cell: CellId,
        session: Option<(GroupId, SessionId)>,
    ) -> Result<(), CgroupError> {
        if let Some((group, session)) = session {
            remove(&self.memory_root().join(self.session_path(group, session)).join(cell_name(cell)))?;
            if let Some(time) = self.time_path((group, session), cell) {
                remove(&time)?;
            }
        }
        match &self.layout {
            // It was born there.
            Layout::V1 { time: Time::Unified(root), .. } => {
                remove(&root.join(&self.parent).join(cell_name(cell)))
            }
            Layout::V1 { .. } | Layout::V2 { .. } => Ok(()),
        }
    }

    /// Removes a session's group, and its group's when it was the last session.
    pub fn remove_session(&self, group: GroupId, session: SessionId) -> Result<(), CgroupError> {
        let path = self.session_path(group, session);
        for root in self.session_roots() {
            remove(&root.join(&path))?;
            // Fails while other sessions of the group live.
            let _others_live = fs::remove_dir(root.join(&self.parent).join(group.to_string()));
        }
        Ok(())
    }

    /// Memory that everything of ours uses, in bytes.
    pub fn memory_in_use(&self) -> Result<u64, CgroupError> {
        let file = if self.v2() { "memory.current" } else { "memory.usage_in_bytes" };
        let path = self.memory_root().join(&self.parent).join(file);
        Ok(at(&path, fs::read_to_string(&path))?.trim().parse().unwrap_or(0))
    }

    /// Kills everything in the tree and removes it: at start (what a former life left) and at the end. Returns the
    /// last counters of the cells that were still there.
    pub fn sweep(layout: &Layout, parent: &str) -> Result<Vec<Remains>, CgroupError> {
        let tree = Self { layout: layout.clone(), parent: parent.to_owned() };
        for root in tree.all_roots() {
            let top = root.join(parent);
            if top.exists() {
                kill_all(&top)?;
            }
        }
        let remains = tree.remains();
        tree.remove()?;
        Ok(remains)
    }

    /// Removes the tree, whose processes are gone.
    pub fn remove(&self) -> Result<(), CgroupError> {
        self.all_roots().into_iter().try_for_each(|root| remove_tree(&root.join(&self.parent)))
    }

    fn remains(&self) -> Vec<Remains> {
        let mut found = Vec::new();
        for (group, above) in named(&self.memory_root().join(&self.parent), "") {
            for (session, above) in named(&above, "") {
                for (cell, memory) in named(&above, "c-") {
                    let time = self.time_path((group, session), cell);
                    let reading = self.counters(&CellGroup { memory, time }).ok().and_then(|c| c.read().ok());
                    found.push(Remains { cell, session, reading: reading.unwrap_or_default() });
                }
            }
        }
        found
    }

    fn session_path(&self, group: GroupId, session: SessionId) -> PathBuf {
        Path::new(&self.parent).join(group.to_string()).join(session.to_string())
    }
}

fn cell_name(cell: CellId) -> String {
    format!("c-{cell}")
}

fn limit_error(error: cgroups_rs::error::Error) -> CgroupError {
    CgroupError::Limit(error.to_string())
}

/// Makes a directory; says whether it was new.
fn make(path: &Path) -> Result<bool, CgroupError> {
    match fs::create_dir(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(CgroupError::Io(path.to_owned(), e)),
    }
}

/// Removes a directory; one that is gone already is fine.
fn remove(path: &Path) -> Result<(), CgroupError> {
    match fs::remove_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(CgroupError::Io(path.to_owned(), e)),
        _ => Ok(()),
    }
}

/// Lets groups below a v2 group have limits.
fn delegate(group: &Path) -> Result<(), CgroupError> {
    let path = group.join("cgroup.subtree_control");
    at(&path, fs::write(&path, "+memory +pids +cpu"))
}

fn give_procs(group: &Path, uid: u32) -> Result<(), CgroupError> {
    let path = group.join("cgroup.procs");
    at(&path, std::os::unix::fs::chown(&path, Some(uid), None))
}

fn attach(group: &Path, pid: Pid) -> Result<(), CgroupError> {
    let path = group.join("cgroup.procs");
    at(&path, fs::write(&path, pid.as_raw_nonzero().to_string()))
}

/// A pid 1, which has one thread, and everything that it and its children have started. See proc_pid_task(5), `children`:
/// exact while none of them starts or ends one.
fn members(pid: Pid) -> Result<Vec<Pid>, CgroupError> {
    let number = pid.as_raw_nonzero();
    let file = PathBuf::from(format!("/proc/{number}/task/{number}/children"));
    let mut all = vec![pid];
    let mut unseen: Vec<Pid> = numbers(&at(&file, fs::read_to_string(&file))?).collect();
    while let Some(pid) = unseen.pop() {
        all.push(pid);
        for task in directories(Path::new(&format!("/proc/{}/task", pid.as_raw_nonzero()))) {
            unseen.extend(numbers(&fs::read_to_string(task.join("children")).unwrap_or_default()));
        }
    }
    Ok(all)
}

/// There is no such process.
fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn numbers(text: &str) -> impl Iterator<Item = Pid> {
    text.split_whitespace().filter_map(|word| word.parse().ok().and_then(Pid::from_raw))
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// The groups in a group that are named after something, behind `prefix`.
fn named<T: std::str::FromStr>(path: &Path, prefix: &str) -> Vec<(T, PathBuf)> {
    let all = directories(path).into_iter();
    all.filter_map(|path| Some((path.file_name()?.to_str()?.strip_prefix(prefix)?.parse().ok()?, path)))
        .collect()
}

/// Every process at and below a group.
fn processes(top: &Path) -> Vec<Pid> {
    let own = fs::read_to_string(top.join("cgroup.procs")).unwrap_or_default();
    let below = directories(top).into_iter().flat_map(|directory| processes(&directory));
    own.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).chain(below).collect()
}

/// Kills by `cgroup.kill` where it exists, else by pidfd, until nothing is left.
fn kill_all(top: &Path) -> Result<(), CgroupError> {
    let end = Instant::now() + EMPTY_WAIT;
    loop {
        let kill = top.join("cgroup.kill");
        if kill.exists() {
            at(&kill, fs::write(&kill, "1"))?;
        }
        let left = processes(top);
        if left.is_empty() {
            return Ok(());
        }
        for pid in left {
            // The number may have been given to another process since it was read; the descriptor cannot, so look
            // again before the signal.
            let Ok(process) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else {
                continue;
            };
            if processes(top).contains(&pid) {
                // Already gone: what was wanted.
                let _gone = rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL);
            }
        }
        if Instant::now() > end {
            return Err(CgroupError::Io(top.to_owned(), io::Error::other("processes do not end")));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn remove_tree(top: &Path) -> Result<(), CgroupError> {
    directories(top).iter().try_for_each(|directory| remove_tree(directory))?;
    let end = Instant::now() + EMPTY_WAIT;
    // A group stays busy for a moment after its last process was reaped.
    while let Err(error) = remove(top) {
        if Instant::now() > end {
            return Err(error);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_three_layouts() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
            cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(Layout::from_mounts(hybrid).unwrap().name(), "hybrid");
        let v1 = hybrid
            .replace("cgroup2 /sys/fs/cgroup/unified cgroup2", "cgroup /sys/fs/cgroup/acct cgroup")
            .replace("acct cgroup rw", "acct cgroup rw,cpuacct");
        assert_eq!(Layout::from_mounts(&v1).unwrap().name(), "v1");
        assert_eq!(Layout::from_mounts("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n").unwrap().name(), "v2");
        assert!(Layout::from_mounts("proc /proc proc rw 0 0\n").is_err());
        assert!(Layout::from_mounts("c /m cgroup rw,memory 0 0\nc /u cgroup2 rw 0 0\n").is_err());
    }
}
