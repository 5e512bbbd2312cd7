//! Quick moves between control groups, as long as the service runs.
//!
//! A process that enters a group makes the kernel wait for every CPU once (an RCU grace period: 10 to 20 ms) unless the
//! hierarchy's mount has the option `favordynmods` (Linux 6.0; Documentation/admin-guide/cgroup-v2.rst). One hierarchy
//! that has it is enough for all of them. By that document forks and exits become more expensive in exchange.

use crate::cgroup::{CgroupError, Layout};
use rustix::mount::{FsPickFlags, fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fspick};
use std::fs;
use std::path::{Path, PathBuf};

const OPTION: &str = "favordynmods";

/// The option, set by us and not by the host.
#[derive(Debug)]
pub struct QuickMoves {
    mount: PathBuf,
    /// The other options of the file system; a change names all of them.
    others: Vec<String>,
}

impl QuickMoves {
    /// Sets it. `None` where the host has it set already; an error where the kernel does not know it or this process
    /// may not: everything works then, but the occasional commit of a cell takes 10 to 20 ms longer.
    pub fn begin(layout: &Layout) -> Result<Option<Self>, CgroupError> {
        let mount = layout.moves();
        let table = Path::new("/proc/self/mountinfo");
        let table = fs::read_to_string(table).map_err(|e| CgroupError::Io(table.to_owned(), e))?;
        let others = options(&table, mount).ok_or(CgroupError::Layout("its mount is not in mountinfo"))?;
        if others.iter().any(|option| option == OPTION) {
            return Ok(None);
        }
        let this = Self { mount: mount.to_owned(), others };
        this.configure(true)?;
        Ok(Some(this))
    }

    /// Takes it back.
    pub fn end(&self) -> Result<(), CgroupError> {
        self.configure(false)
    }

    fn configure(&self, favor: bool) -> Result<(), CgroupError> {
        let change = || -> rustix::io::Result<()> {
            let filesystem = fspick(rustix::fs::CWD, &self.mount, FsPickFlags::FSPICK_CLOEXEC)?;
            for option in &self.others {
                match option.split_once('=') {
                    Some((key, value)) => fsconfig_set_string(&filesystem, key, value)?,
                    None => fsconfig_set_flag(&filesystem, option)?,
                }
            }
            if favor {
                fsconfig_set_flag(&filesystem, OPTION)?;
            }
            fsconfig_reconfigure(&filesystem)
        };
        change().map_err(|e| CgroupError::Io(self.mount.clone(), e.into()))
    }
}

/// The options of the file system that is mounted there: the last field, proc_pid_mountinfo(5).
fn options(mountinfo: &str, mount: &Path) -> Option<Vec<String>> {
    let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let line =
        mountinfo.lines().map(fields).rfind(|f| f.get(4).is_some_and(|path| Path::new(path) == mount))?;
    let options = line.last()?.split(',').filter(|option| !matches!(*option, "rw" | "ro" | ""));
    Some(options.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_the_file_systems() {
        let table = "30 25 0:26 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw,mode=755\n\
            31 30 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n\
            32 30 0:28 / /sys/fs/cgroup/unified rw,nodev - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n\
            33 30 0:29 / /mnt rw - cgroup2 none rw\n";
        let of = |path: &str| options(table, Path::new(path));
        assert_eq!(of("/sys/fs/cgroup/memory").unwrap(), ["memory"]);
        assert_eq!(of("/sys/fs/cgroup/unified").unwrap(), ["nsdelegate", "memory_recursiveprot"]);
        assert_eq!(of("/mnt").unwrap(), [] as [&str; 0]);
        assert_eq!(of("/sys"), None);
    }
}
