//! A process's own memory, moved into a file that it maps.
//!
//! A fork copies the page tables of what a process has written, page for page, and the end of the copy takes them down
//! again. It does neither for a private mapping of a file to which nothing has been written: what a copy needs of it comes
//! when it is used. So a zygote that is large, of which each copy uses little, puts what it has written into a file.

use nix::errno::Errno;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::FileExt as _;

const PAGE_BYTES: usize = 4096;
/// What "/proc/pid/pagemap" in proc(5) says of a page: it is in memory, or swapped out; it is a file's.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE: u64 = 1 << 61;
/// So many pages between written ones are taken along, for the sake of fewer mappings.
const GAP_PAGES: usize = 16;
/// Readable, writable, executable; may be made so; accounted for, or not; not seen to be clean. Mappings that say anything
/// else of themselves stay as they are: "/proc/pid/smaps" in proc(5).
const PLAIN: [&str; 9] = ["rd", "wr", "ex", "mr", "mw", "me", "ac", "nr", "sd"];

/// Memory of this process, whole pages.
#[derive(Debug, PartialEq)]
struct Area {
    range: Range<usize>,
    rights: ProtFlags,
}

/// Moves what this process has written so far into a file, which is sealed and has no name, and of which it then has private
/// mappings at the same addresses, with the same rights. The stack that it stands on stays. To be called with one thread.
///
/// It saves time and nothing else: what cannot be moved stays as it was. What changes is that `MADV_DONTNEED` gives back
/// what was there at this moment, and not zeros.
pub(crate) fn settle_memory() -> io::Result<()> {
    let stack = 0_u8;
    let stack = (&raw const stack).addr();
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut written = Vec::new();
    for area in own_areas(&smaps).filter(|area| !area.range.contains(&stack)) {
        let (first, pages) = (area.range.start / PAGE_BYTES, area.range.len() / PAGE_BYTES);
        let mut about = vec![0; pages * size_of::<u64>()];
        pagemap.read_exact_at(&mut about, (first * size_of::<u64>()) as u64)?;
        written.extend(runs(&about).map(|run| {
            let at = |page| (first + page) * PAGE_BYTES;
            Area { range: at(run.start)..at(run.end), rights: area.rights }
        }));
    }
    let bytes: usize = written.iter().map(|area| area.range.len()).sum();
    let file = rustix::fs::memfd_create("zygote", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, bytes as u64)?;
    let mut offset = 0;
    for area in &written {
        settle(area, file.as_fd(), offset)?;
        offset += area.range.len();
    }
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    Ok(rustix::fs::fcntl_add_seals(&file, seals)?)
}

/// The mappings that may be moved, all of which are private and can be read.
fn own_areas(smaps: &str) -> impl Iterator<Item = Area> {
    let mut area = None;
    smaps.lines().filter_map(move |line| match line.strip_prefix("VmFlags:") {
        Some(flags) => {
            area.take().filter(|_| flags.split_ascii_whitespace().all(|flag| PLAIN.contains(&flag)))
        }
        None => {
            area = area.take().or_else(|| own_area(line));
            None
        }
    })
}

/// What the first line of a mapping says: "/proc/pid/maps" in proc(5).
fn own_area(line: &str) -> Option<Area> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (rights, name) = (words.next()?.as_bytes(), words.nth(3).unwrap_or_default());
    let &[b'r', write, execute, b'p'] = rights else { return None };
    if name.starts_with('[') && name != "[heap]" {
        return None;
    }
    let right = |letter, right| if letter == b'-' { ProtFlags::empty() } else { right };
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(Area {
        range: address(start)?..address(end)?,
        rights: ProtFlags::READ | right(write, ProtFlags::WRITE) | right(execute, ProtFlags::EXEC),
    })
}

/// Pages that were written, with those that lie between them, by what the kernel says of each page of a mapping.
fn runs(about: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut pages = about.chunks_exact(size_of::<u64>()).enumerate().filter_map(|(page, about)| {
        let about = u64::from_ne_bytes(about.try_into().ok()?);
        (about & SWAPPED != 0 || about & (PRESENT | FILE) == PRESENT).then_some(page)
    });
    let mut next = pages.next();
    std::iter::from_fn(move || {
        let start = next?;
        let mut last = start;
        next = pages.find(|&page| {
            let near = page - last <= GAP_PAGES;
            if near {
                last = page;
            }
            !near
        });
        Some(start..last + 1)
    })
}

/// Moves one area to a place in the file.
#[expect(unsafe_code, reason = "replaces memory that this process goes on using")]
fn settle(area: &Area, file: BorrowedFd<'_>, offset: usize) -> io::Result<()> {
    let start = std::ptr::without_provenance_mut::<c_void>(area.range.start);
    let (bytes, at) = (area.range.len(), i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?);
    // SAFETY: the kernel reads the memory, whoever it belongs to, and fails where there is none (any more).
    let copied = unsafe { libc::pwrite(file.as_raw_fd(), start, bytes, at) };
    if usize::try_from(copied) != Ok(bytes) {
        return Ok(());
    }
    // SAFETY: the same bytes are at the same addresses before and after, with the same rights. Between the copy and this
    // call nothing but this thread runs, which has written to its stack alone; that is not among the areas.
    unsafe {
        rustix::mm::mmap(start, bytes, area.rights, MapFlags::PRIVATE | MapFlags::FIXED, file, offset as u64)
    }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_private_memory_is_moved() {
        let read_write = ProtFlags::READ | ProtFlags::WRITE;
        let areas = |line: &str, flags: &str| {
            own_areas(&format!("{line}\nSize: 24 kB\nVmFlags: {flags}\n")).collect::<Vec<_>>()
        };
        let (plain, rest) = ("rd wr mr mw me ac sd ", "00000000 00:00 0");
        for (line, rights) in [
            (format!("7f0000001000-7f0000003000 rw-p {rest} "), read_write),
            (format!("7f0000001000-7f0000003000 rw-p {rest}                          [heap]"), read_write),
            ("7f0000001000-7f0000003000 rw-p 00006000 08:01 17 /usr/lib/libx.so".into(), read_write),
            ("7f0000001000-7f0000003000 r--p 00006000 08:01 17 /usr/lib/libx.so".into(), ProtFlags::READ),
        ] {
            let area = Area { range: 0x7f00_0000_1000..0x7f00_0000_3000, rights };
            assert_eq!(areas(&line, plain), [area], "{line}");
            for other in ["rd wr mr mw me ac wf", "rd wr mr mw me dc ac", "rd wr mr mw me gd ac"] {
                assert!(areas(&line, other).is_empty(), "{other}");
            }
        }
        for line in [
            "7f0000001000-7f0000003000 rw-s 00000000 00:01 17 /memfd:x (deleted)",
            "7f0000001000-7f0000003000 ---p 00000000 00:00 0 ",
            "7ff000001000-7ff000003000 rw-p 00000000 00:00 0                          [stack]",
            "7ff000001000-7ff000003000 r-xp 00000000 00:00 0                          [vdso]",
        ] {
            assert!(areas(line, plain).is_empty(), "{line}");
        }
    }

    #[test]
    fn what_lies_between_written_pages_is_taken_along() {
        let file = PRESENT | FILE;
        let all = |pages: &[u64]| {
            let about: Vec<u8> = pages.iter().flat_map(|page| page.to_ne_bytes()).collect();
            runs(&about).map(|run| (run.start, run.end)).collect::<Vec<_>>()
        };
        assert_eq!(all(&[0, PRESENT, file, 0, SWAPPED, 0]), [(1, 5)]);
        assert!(all(&[0, file, 0]).is_empty());
        let mut far = vec![PRESENT];
        far.resize(GAP_PAGES + 1, 0);
        far.push(PRESENT);
        assert_eq!(all(&far), [(0, 1), (GAP_PAGES + 1, GAP_PAGES + 2)]);
        far.remove(1);
        assert_eq!(all(&far), [(0, GAP_PAGES + 1)]);
    }

    /// In a process of its own, which has one thread.
    #[test]
    fn memory_says_the_same_before_and_after() {
        let status = in_a_fork(|| {
            let mut numbers: Vec<u64> = (0..1 << 20).collect();
            settle_memory().unwrap();
            let place = numbers.as_ptr().addr();
            let smaps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let moved = smaps.lines().filter(|line| line.contains("memfd:zygote")).filter_map(own_area);
            assert!(moved.into_iter().any(|area| area.range.contains(&(place + PAGE_BYTES))), "{smaps}");
            numbers[7] = 8;
            assert!(numbers.iter().copied().enumerate().all(|(at, it)| it == at as u64 + u64::from(at == 7)));
        });
        assert_eq!(status, nix::sys::wait::WaitStatus::Exited(status.pid().unwrap(), 0));
    }

    #[expect(unsafe_code, reason = "fork is unsafe by nature")]
    fn in_a_fork(body: impl FnOnce() + std::panic::UnwindSafe) -> nix::sys::wait::WaitStatus {
        // SAFETY: what the child uses is its own stack and the allocator, which the C library makes usable after a fork.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Parent { child } => nix::sys::wait::waitpid(child, None).unwrap(),
            nix::unistd::ForkResult::Child => {
                let code = i32::from(std::panic::catch_unwind(body).is_err());
                // SAFETY: nothing of the test runner's is to run at this exit.
                unsafe { libc::_exit(code) }
            }
        }
    }
}
