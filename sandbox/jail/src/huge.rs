//! Large pages for what is copied often: a fork copies one entry where it would copy 512, and ends as many at a time.

use std::ffi::c_void;
use std::ops::Range;

/// The size of a large page, in bytes: x86-64, and aarch64 with pages of 4 KiB.
const LARGE_BYTES: usize = 2 << 20;

/// Puts this process's own memory into large pages, as far as it fills them (`MADV_COLLAPSE`, Linux 6.1). Copies that
/// write to a page still get one of the usual size. It only saves time: where the kernel cannot, all stays as it was.
pub(crate) fn fold_memory() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for range in maps.lines().filter_map(own_memory) {
        fold(&range);
    }
}

/// The large pages within a mapping that is nothing but memory: "/proc/pid/maps" in proc(5).
fn own_memory(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (rights, inode) = (words.next()?, words.nth(2)?);
    if rights != "rw-p" || inode != "0" || !matches!(words.next(), None | Some("[heap]")) {
        return None;
    }
    let address = |text| usize::from_str_radix(text, 16).ok();
    let start = address(start)?.next_multiple_of(LARGE_BYTES);
    let end = address(end)? / LARGE_BYTES * LARGE_BYTES;
    (start < end).then_some(start..end)
}

#[expect(
    unsafe_code,
    reason = "madvise has no safe form, since other advice than this one loses what is in memory"
)]
fn fold(range: &Range<usize>) {
    let start = std::ptr::without_provenance_mut::<c_void>(range.start);
    // SAFETY: the memory says the same before and after; it only is elsewhere. It fails where nothing is mapped.
    let _as_it_was = unsafe { libc::madvise(start, range.len(), libc::MADV_COLLAPSE) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_of_memory_are_taken() {
        let line = "7f0000001000-7f0000601000 rw-p 00000000 00:00 0 ";
        assert_eq!(own_memory(line), Some(0x7f00_0020_0000..0x7f00_0060_0000));
        let heap = "55e000000000-55e000200000 rw-p 00000000 00:00 0                          [heap]";
        assert_eq!(own_memory(heap), Some(0x55e0_0000_0000..0x55e0_0020_0000));
        for other in [
            "7f0000001000-7f0000201000 rw-p 00000000 00:00 0 ",
            "7f0000000000-7f0000600000 r--p 00000000 00:00 0 ",
            "7f0000000000-7f0000600000 rw-s 00000000 00:01 17 /memfd:x (deleted)",
            "7f0000000000-7f0000600000 rw-p 00000000 08:01 17 /usr/lib/libx.so",
            "7ff000000000-7ff000600000 rw-p 00000000 00:00 0                          [stack]",
            "",
        ] {
            assert_eq!(own_memory(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_in_memory_stays() {
        let numbers: Vec<u64> = (0..1 << 20).collect();
        fold_memory();
        assert!(numbers.iter().copied().eq(0..1 << 20));
    }
}
