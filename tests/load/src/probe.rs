//! What the server costs: processor time and memory of all its processes, cells included.

use anchorhold_tests::host;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::Duration;

/// Reading the memory of a process takes a part of a millisecond of its own time. With more processes than this it
/// would show in what is measured, so that it is read before and after only.
const PROCESSES_MAX: usize = 128;

/// The processes of a server: these and whatever descends from them.
#[derive(Debug)]
pub struct Probe {
    roots: Vec<u32>,
}

/// What there was at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Processor time of all, those that ended included.
    pub cpu: Duration,
    /// Memory of all (proportional set size: what is shared counts once), unless there were too many to ask.
    pub memory_bytes: Option<u64>,
}

/// A line of `/proc/<pid>/stat`, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: u32,
    parent: u32,
    /// In clock ticks: its own, and that of children that it has reaped.
    ticks: u64,
}

impl Probe {
    /// Of the server with these processes.
    pub fn of(roots: Vec<u32>) -> Self {
        Self { roots }
    }

    /// Of every server on this machine.
    pub fn of_all() -> Self {
        let named = |name| host::processes(name).into_iter().map(|process| process.pid);
        Self { roots: named("anchorhold").chain(named("anchorhold-warden")).collect() }
    }

    /// How many processes there are.
    pub fn count(&self) -> usize {
        self.processes().len()
    }

    /// Reads the processor time, and the memory if there are few processes.
    pub fn read(&self) -> Reading {
        let processes = self.processes();
        let few = processes.len() <= PROCESSES_MAX;
        Reading { cpu: cpu(&processes), memory_bytes: few.then(|| memory(&processes)) }
    }

    /// Memory, however long it takes to read.
    pub fn memory_bytes(&self) -> u64 {
        memory(&self.processes())
    }

    fn processes(&self) -> Vec<Process> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let all = pids.filter_map(|pid: u32| parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?));
        descendants(all.collect(), &self.roots)
    }
}

/// Children that ended are in the account of who reaped them, so that the sum over the living never falls.
fn cpu(processes: &[Process]) -> Duration {
    let ticks: u64 = processes.iter().map(|process| process.ticks).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn memory(processes: &[Process]) -> u64 {
    let pss = |process: &Process| {
        // It may have ended meanwhile.
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid)).ok()?;
        let kib = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"))?;
        Some(kib.parse::<u64>().ok()? * 1024)
    };
    processes.iter().filter_map(pss).sum()
}

/// A program's name may hold spaces and parentheses; what follows its last one does not.
fn parse(stat: &str) -> Option<Process> {
    let (head, tail) = stat.rsplit_once(") ")?;
    let pid = head.split_once(' ')?.0.parse().ok()?;
    let fields: Vec<&str> = tail.split(' ').collect();
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>().unwrap_or(0)).sum();
    Some(Process { pid, parent: fields.get(1)?.parse().ok()?, ticks })
}

fn descendants(all: Vec<Process>, roots: &[u32]) -> Vec<Process> {
    let mut children: HashMap<u32, Vec<Process>> = HashMap::new();
    let mut found: Vec<Process> = Vec::new();
    for process in all {
        if roots.contains(&process.pid) {
            found.push(process);
        }
        children.entry(process.parent).or_default().push(process);
    }
    let mut known: HashSet<u32> = found.iter().map(|process| process.pid).collect();
    let mut next = 0;
    while let Some(process) = found.get(next).copied() {
        next += 1;
        let born = children.remove(&process.pid).unwrap_or_default();
        found.extend(born.into_iter().filter(|child| known.insert(child.pid)));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pass_for_figures() {
        let stat = "17 (a) S 1 2 3 (b)) S 4 17 17 0 -1 4194560 9 9 0 0 100 20 3 4 20 0 1 0 5 6 7";
        assert_eq!(parse(stat), Some(Process { pid: 17, parent: 4, ticks: 127 }));
        assert_eq!(parse("17 (a) S 4"), None);
    }

    #[test]
    fn descendants_are_found_once() {
        let process = |pid, parent| Process { pid, parent, ticks: 1 };
        let all =
            vec![process(1, 0), process(5, 4), process(2, 1), process(3, 2), process(4, 2), process(9, 1)];
        let mut found: Vec<u32> = descendants(all, &[2, 4]).iter().map(|process| process.pid).collect();
        found.sort_unstable();
        assert_eq!(found, [2, 3, 4, 5]);
    }

    #[test]
    fn what_this_program_does_shows() {
        let probe = Probe::of(vec![std::process::id()]);
        let before = probe.read();
        let begun = std::time::Instant::now();
        let mut pages = Vec::new();
        while begun.elapsed() < Duration::from_millis(100) {
            pages.push(vec![1u8; 1 << 20]);
            pages.truncate(64);
        }
        let after = probe.read();
        assert!(after.cpu >= before.cpu + Duration::from_millis(30), "{before:?} {after:?}");
        let grown =
            after.memory_bytes.zip(before.memory_bytes).map(|(after, before)| after.saturating_sub(before));
        assert!(grown >= Some(30 << 20), "{before:?} {after:?}, {} held", pages.len());
    }
}
