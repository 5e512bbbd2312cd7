//! The kernel's counters of a cell, read through descriptors that the warden opened.
//!
//! The files belong to the cell's cgroup. They answer until the cgroup is removed; its tombstone has the last values.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// What a cell has used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// CPU of everything in the cell, in microseconds.
    pub cpu_us: u64,
    /// Memory now: anonymous and shared, in bytes.
    pub memory_bytes: u64,
    /// Most memory at any time, in bytes.
    pub memory_peak_bytes: u64,
    /// Processes that the kernel killed for memory.
    pub oom_kills: u64,
}

/// Open counter files of one cell.
#[derive(Debug)]
pub struct Counters {
    cpu: File,
    memory: File,
    peak: File,
    oom: File,
}

impl Counters {
    /// How many descriptors make a set, in the order cpu, memory, peak, oom.
    pub const FILES: usize = 4;

    /// From descriptors in that order; `None` when there are not as many.
    pub fn from_descriptors(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let [cpu, memory, peak, oom]: [OwnedFd; Self::FILES] = descriptors.try_into().ok()?;
        Some(Self { cpu: cpu.into(), memory: memory.into(), peak: peak.into(), oom: oom.into() })
    }

    /// The descriptors, in that order.
    pub fn descriptors(&self) -> [&File; Self::FILES] {
        [&self.cpu, &self.memory, &self.peak, &self.oom]
    }

    /// Reads all counters now. Fails (`ENODEV`) when the cell's cgroup is gone.
    pub fn read(&self) -> io::Result<Reading> {
        Ok(Reading {
            cpu_us: self.cpu_us()?,
            memory_bytes: self.memory_bytes()?,
            memory_peak_bytes: number(&text(&self.peak)?),
            oom_kills: self.oom_kills()?,
        })
    }

    /// CPU only.
    pub fn cpu_us(&self) -> io::Result<u64> {
        let text = text(&self.cpu)?;
        // v2 cpu.stat counts microseconds by name; v1 cpuacct.usage is one number of nanoseconds.
        Ok(field(&text, "usage_usec").unwrap_or_else(|| number(&text) / 1000))
    }

    /// Kills for memory only.
    pub fn oom_kills(&self) -> io::Result<u64> {
        Ok(field(&text(&self.oom)?, "oom_kill").unwrap_or(0))
    }

    fn memory_bytes(&self) -> io::Result<u64> {
        let text = text(&self.memory)?;
        // v2 names anonymous memory `anon`, v1 `rss`; shared memory is `shmem` in both.
        let anonymous = field(&text, "anon").or_else(|| field(&text, "rss")).unwrap_or(0);
        Ok(anonymous + field(&text, "shmem").unwrap_or(0))
    }
}

/// A counter file from its beginning; at most a page, which all of them fit in.
fn text(file: &File) -> io::Result<String> {
    let mut bytes = [0; 4096];
    let length = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(content: &str) -> OwnedFd {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file.into()
    }

    #[test]
    fn reads_both_layouts() {
        let v1 = [
            "1234567\n",
            "cache 1\nrss 4096\nshmem 100\n",
            "8192\n",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        ];
        let v2 =
            ["usage_usec 1234\nuser_usec 1\n", "anon 4096\nshmem 100\n", "8192\n", "oom 3\noom_kill 2\n"];
        for files in [v1, v2] {
            let counters = Counters::from_descriptors(files.map(file).into_iter().collect()).unwrap();
            let expected =
                Reading { cpu_us: 1234, memory_bytes: 4196, memory_peak_bytes: 8192, oom_kills: 2 };
            assert_eq!(counters.read().unwrap(), expected);
        }
    }
}
