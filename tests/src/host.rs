//! The other side: what the host sees of processes, groups, mounts, namespaces and memory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A process of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its program's name.
    pub name: String,
    /// Its command line, words separated by spaces.
    pub arguments: String,
}

/// Every process whose program has this name (or begins with its first 15 characters, which are all that the kernel
/// keeps), zombies included, but for those that only the host's init has not reaped yet.
pub fn processes(name: &str) -> Vec<Process> {
    let short = &name[..name.len().min(15)];
    let numbers = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok());
    let all = numbers.filter_map(|pid: u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned();
        let arguments =
            fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
        Some(Process { pid, name, arguments })
    });
    let is_inits = |pid| {
        status(pid, "State").is_none_or(|s| s.starts_with('Z'))
            && status(pid, "PPid").is_none_or(|p| p == "1")
    };
    all.filter(|p| p.name == short && !is_inits(p.pid)).collect()
}

/// A field of `/proc/<pid>/status`.
pub fn status(pid: u32, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(field)?.strip_prefix(':')?.trim().to_owned()))
}

/// A namespace of a process: `pid:[4026531836]`.
pub fn namespace(pid: u32, kind: &str) -> Option<String> {
    Some(fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?.display().to_string())
}

/// Every control group of every hierarchy whose path contains `needle`.
pub fn cgroups(needle: &str) -> Vec<PathBuf> {
    fn walk(path: PathBuf, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                walk(entry.path(), found);
            }
        }
        found.push(path);
    }
    let mut all = Vec::new();
    walk("/sys/fs/cgroup".into(), &mut all);
    all.retain(|path| path.to_str().is_some_and(|p| p.contains(needle)));
    all
}

/// Processes in the cells of live sessions: members of groups that are named after cells and are below a session's
/// (cells that nobody took have groups too, but directly below ours). The oldest first: of a cell, its pid 1.
pub fn cell_processes(needle: &str) -> Vec<u32> {
    let name = |path: &Path| path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    let of_a_session = |path: &PathBuf| {
        name(path).starts_with("c-")
            && path.parent().is_some_and(|above| !name(above).starts_with("anchorhold-"))
    };
    let cells = cgroups(needle).into_iter().filter(of_a_session);
    let text: String = cells.filter_map(|p| fs::read_to_string(p.join("cgroup.procs")).ok()).collect();
    oldest_first(&text)
}

/// Processes of cells of a server that wait for sessions: their groups are directly below the server's.
pub fn waiting_cells(cgroup: &str) -> Vec<u32> {
    let waits = |path: &PathBuf| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        name.starts_with("c-") && path.parent().is_some_and(|above| above.ends_with(cgroup))
    };
    let cells = cgroups(cgroup).into_iter().filter(waits);
    let text: String = cells.filter_map(|p| fs::read_to_string(p.join("cgroup.procs")).ok()).collect();
    oldest_first(&text)
}

/// Numbers of processes, each once. Numbers are used again, so they say nothing of age.
fn oldest_first(text: &str) -> Vec<u32> {
    let aged = |pid: u32| Some((started(pid)?, pid));
    let pids: BTreeSet<(u64, u32)> = text.lines().filter_map(|l| l.parse().ok().and_then(aged)).collect();
    pids.into_iter().map(|(_, pid)| pid).collect()
}

/// When a process began, in ticks since the machine did. See proc_pid_stat(5), `starttime`.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()
}

/// What must be the same before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footprint {
    /// Processes of ours.
    pub processes: usize,
    /// Control groups of ours.
    pub cgroups: usize,
    /// Mounts of the host, with their options.
    pub mounts: String,
    /// Namespaces of every kind that some process is in.
    pub namespaces: usize,
    /// Our files in the directory for temporary ones.
    pub temporary: usize,
}

impl Footprint {
    /// Takes it.
    pub fn take() -> Self {
        let ours = [
            "anchorhold",
            "anchorhold-warden",
            "anchorhold-cell",
            "anchorhold-pid1",
            "anchorhold-evil",
            "anchorhold-egress",
            "chromium-headless-shell",
        ];
        let pids = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.parse().ok());
        let kinds = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"];
        let namespaces: BTreeSet<String> =
            pids.flat_map(|pid: u32| kinds.map(|kind| namespace(pid, kind))).flatten().collect();
        let temporary = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
        Self {
            processes: ours.iter().map(|name| processes(name).len()).sum(),
            cgroups: cgroups("anchorhold").len(),
            mounts: fs::read_to_string("/proc/self/mounts").unwrap_or_default(),
            namespaces: namespaces.len(),
            temporary: temporary
                .filter(|e| e.file_name().to_string_lossy().starts_with("anchorhold-"))
                .count(),
        }
    }
}

/// This machine, in words: processors, memory, kernel.
pub fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("?");
    let cores = cpu.lines().filter(|l| l.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} × {model}, {} GiB, Linux {}", memory("MemTotal") >> 30, kernel.trim())
}

/// A figure of `/proc/meminfo`, in bytes.
pub fn memory(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|l| l.strip_prefix(field)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0u64) * 1024
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}
