//! The files cell against a hostile workspace.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by panicking what is wrong")]

mod support;

use anchorhold_jail::hatch::{
    ArchiveFault, ArchiveFormat, Change, EntryKind, FileAction, FileAnswer, FileError, FromCell, Part, ToCell,
};
use rustix::fs::{FileType, Mode};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use support::Cell;

fn cell() -> Cell {
    Cell::ready(&["files"], support::MEMORY)
}

fn upload(cell: &Cell, path: &str, content: &[u8], length: Option<u64>) -> FileAnswer {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let id = cell.ask(path, FileAction::Upload { length }, Some(reader.as_fd()));
    drop(reader);
    if length.is_none() {
        cell.send(&ToCell::Complete { operation: id, bytes: content.len() as u64 }, &[]);
    }
    let content = content.to_vec();
    // The cell hangs up early when it refuses.
    let sender = std::thread::spawn(move || writer.write_all(&content));
    let answer = cell.answer(id);
    let _hung_up = sender.join().unwrap();
    answer
}

fn download(cell: &Cell, path: &str) -> Result<Vec<u8>, FileError> {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let id = cell.ask(path, FileAction::Download { part: Part::Whole }, Some(writer.as_fd()));
    drop(writer);
    let found = match cell.answer(id) {
        FileAnswer::Found(entry) => entry,
        FileAnswer::Refused(error) => return Err(error),
        other => panic!("{other:?}"),
    };
    let mut content = Vec::new();
    reader.read_to_end(&mut content).unwrap();
    assert!(matches!(cell.answer(id), FileAnswer::Done));
    assert_eq!(found.size, content.len() as u64);
    Ok(content)
}

fn list(cell: &Cell, path: &str, recursive: bool) -> Result<Vec<String>, FileError> {
    let id = cell.ask(path, FileAction::List { recursive }, None);
    let mut paths = Vec::new();
    loop {
        match cell.answer(id) {
            FileAnswer::Entries(entries) => paths.extend(entries.into_iter().map(|entry| entry.path)),
            FileAnswer::Done => return Ok(paths),
            FileAnswer::Refused(error) => return Err(error),
            other => panic!("{other:?}"),
        }
    }
}

fn simple(cell: &Cell, path: &str, action: FileAction) -> Result<FileAnswer, FileError> {
    let id = cell.ask(path, action, None);
    match cell.answer(id) {
        FileAnswer::Refused(error) => Err(error),
        answer => Ok(answer),
    }
}

fn kind(cell: &Cell, path: &str) -> Result<EntryKind, FileError> {
    match simple(cell, path, FileAction::Stat)? {
        FileAnswer::Found(entry) => Ok(entry.kind),
        other => panic!("{other:?}"),
    }
}

fn refused(answer: FileAnswer) -> FileError {
    match answer {
        FileAnswer::Refused(error) => error,
        other => panic!("{other:?}"),
    }
}

const DELETE: FileAction = FileAction::Delete { recursive: false };
const DELETE_ALL: FileAction = FileAction::Delete { recursive: true };

#[test]
fn files_round_trip_and_replace() {
    let cell = cell();
    let content: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    for length in [Some(content.len() as u64), None] {
        match upload(&cell, "deep/er/data.bin", &content, length) {
            FileAnswer::Written { size, sha256 } => {
                assert_eq!(size, content.len() as u64);
                assert_eq!(sha256[..], Sha256::digest(&content)[..]);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(download(&cell, "deep/er/data.bin").unwrap(), content);
    assert!(matches!(upload(&cell, "empty", b"", Some(0)), FileAnswer::Written { size: 0, .. }));
    assert_eq!(download(&cell, "empty").unwrap(), b"");
    assert_eq!(list(&cell, "", true).unwrap(), ["deep", "deep/er", "deep/er/data.bin", "empty"]);
    assert_eq!(list(&cell, "", false).unwrap(), ["deep", "empty"]);
}

#[test]
fn a_wrong_length_changes_nothing() {
    let cell = cell();
    upload(&cell, "a", b"before", None);
    for length in [3, 5, 100] {
        assert_eq!(refused(upload(&cell, "a", b"four", Some(length))), FileError::Incomplete);
    }
    assert_eq!(download(&cell, "a").unwrap(), b"before");
    assert_eq!(fs::read_dir(cell.workspace()).unwrap().count(), 1, "no temporary file is left");
}

/// Sends an archive, as a sender that does not say its length.
fn unpack(cell: &Cell, path: &str, content: &[u8]) -> FileAnswer {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let id = cell.ask(path, FileAction::Unpack { format: None, length: None }, Some(reader.as_fd()));
    drop(reader);
    cell.send(&ToCell::Complete { operation: id, bytes: content.len() as u64 }, &[]);
    let content = content.to_vec();
    let sender = std::thread::spawn(move || writer.write_all(&content));
    let answer = cell.answer(id);
    let _hung_up = sender.join().unwrap();
    answer
}

fn pack(cell: &Cell, path: &str, format: ArchiveFormat) -> Vec<u8> {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let id = cell.ask(path, FileAction::Pack { format }, Some(writer.as_fd()));
    drop(writer);
    assert!(matches!(cell.answer(id), FileAnswer::Begun));
    let mut content = Vec::new();
    reader.read_to_end(&mut content).unwrap();
    match cell.answer(id) {
        FileAnswer::Packed { bytes } => assert_eq!(bytes, content.len() as u64),
        other => panic!("{other:?}"),
    }
    content
}

#[test]
fn archives_round_trip_without_what_is_no_file() {
    let cell = cell();
    let workspace = cell.workspace();
    fs::create_dir_all(workspace.join("in/empty")).unwrap();
    fs::write(workspace.join("in/a"), vec![7; 300_000]).unwrap();
    symlink("/etc/passwd", workspace.join("in/link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, workspace.join("in/fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    // Names that are no UTF-8 look alike; one that looks like them is a name.
    for name in [&b"\xff"[..], b"\xfe", "\u{fffd}".as_bytes()] {
        fs::write(workspace.join("in").join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    for format in [ArchiveFormat::Tar, ArchiveFormat::TarGz, ArchiveFormat::TarZst, ArchiveFormat::Zip] {
        let packed = pack(&cell, "in", format);
        let answer = unpack(&cell, "out/here", &packed);
        assert!(
            matches!(answer, FileAnswer::Unpacked { entries: 3, bytes: 300_003 }),
            "{format:?} {answer:?}"
        );
        assert_eq!(
            list(&cell, "out/here", true).unwrap(),
            ["out/here/a", "out/here/empty", "out/here/\u{fffd}"]
        );
        assert_eq!(fs::read(workspace.join("out/here/a")).unwrap(), vec![7; 300_000], "{format:?}");
        // A tar ends with two empty blocks, of which one is enough.
        let end = if format == ArchiveFormat::Tar { 1024 } else { 1 };
        for cut in [0, packed.len() / 2, packed.len() - end] {
            let broken = refused(unpack(&cell, "cut", &packed[..cut]));
            assert_eq!(broken, FileError::Archive(ArchiveFault::Unreadable), "{format:?} {cut}");
        }
        assert!(matches!(simple(&cell, "out", DELETE_ALL), Ok(FileAnswer::Done)));
    }
    assert_eq!(fs::read_dir(&workspace).unwrap().count(), 1, "no staging directory is left");
}

#[test]
fn a_batch_is_undone_in_any_order() {
    let cell = cell();
    let workspace = cell.workspace();
    fs::create_dir_all(workspace.join("d/e")).unwrap();
    fs::write(workspace.join("d/e/f"), "before").unwrap();
    let write = |path: &str| Change::Write { path: path.into(), content: b"after".to_vec() };
    let moved = |from: &str, to: &str| Change::Move { from: from.into(), to: to.into() };
    let changes = vec![
        write("d/e/f"),
        moved("d/e", "g/h"),
        write("g/h/new"),
        Change::Delete { path: "d".into(), recursive: false },
        moved("g", "d"),
        Change::Delete { path: "d/h/f".into(), recursive: false },
        write("d/h/f"),
        Change::MakeDirectory { path: "d/h/i/j".into() },
    ];
    let ask = |changes| simple(&cell, "", FileAction::Batch(changes));
    let before = list(&cell, "", true).unwrap();
    for length in 0..changes.len() {
        let mut changes = changes[..length].to_vec();
        changes.push(Change::Delete { path: "none".into(), recursive: true });
        let failed = ask(changes).unwrap();
        assert!(
            matches!(failed, FileAnswer::Failed { index, why: FileError::NotFound } if index as usize == length),
            "{failed:?}"
        );
        assert_eq!(list(&cell, "", true).unwrap(), before, "{length}");
        assert_eq!(fs::read(workspace.join("d/e/f")).unwrap(), b"before", "{length}");
    }
    assert!(matches!(ask(changes), Ok(FileAnswer::Done)));
    assert_eq!(list(&cell, "", true).unwrap(), ["d", "d/h", "d/h/f", "d/h/i", "d/h/i/j", "d/h/new"]);
    assert_eq!(fs::read_dir(&workspace).unwrap().count(), 1, "no staging directory is left");
}

#[test]
fn an_archive_that_is_cancelled_leaves_nothing() {
    let cell = cell();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let id = cell.ask("", FileAction::Unpack { format: None, length: None }, Some(reader.as_fd()));
    writer.write_all(&[0; 512]).unwrap();
    cell.send(&ToCell::Cancel { execution: id }, &[]);
    assert_eq!(refused(cell.answer(id)), FileError::Incomplete);
    assert!(fs::read_dir(cell.workspace()).unwrap().next().is_none());
}

#[test]
fn links_fifos_and_odd_paths_are_refused() {
    let cell = cell();
    let workspace = cell.workspace();
    symlink("/etc/passwd", workspace.join("absolute")).unwrap();
    symlink("..", workspace.join("up")).unwrap();
    symlink(".", workspace.join("self")).unwrap();
    fs::write(cell.root.path().join("secret"), "x").unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, workspace.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    fs::create_dir(workspace.join("directory")).unwrap();
    for path in ["absolute", "up/secret", "self/fifo", "self/absolute", "up/workspace/fifo"] {
        assert_eq!(download(&cell, path), Err(FileError::InvalidPath), "{path}");
        assert_eq!(refused(upload(&cell, &format!("{path}/x"), b"", None)), FileError::InvalidPath, "{path}");
    }
    for path in
        ["../secret", "a/../../secret", "/etc/passwd", "a//b", ".", "./a", "a/", "a\0b", ".anchorhold-x"]
    {
        assert_eq!(download(&cell, path), Err(FileError::InvalidPath), "{path:?}");
        assert_eq!(simple(&cell, path, DELETE_ALL).unwrap_err(), FileError::InvalidPath, "{path:?}");
    }
    assert_eq!(download(&cell, &"x".repeat(256)), Err(FileError::InvalidPath));
    assert_eq!(download(&cell, &"x/".repeat(65)), Err(FileError::InvalidPath));
    for path in ["fifo", "directory", ""] {
        assert_eq!(download(&cell, path), Err(FileError::NotRegular), "{path}");
    }
    assert_eq!(refused(upload(&cell, "fifo", b"x", None)), FileError::NotRegular);
    assert_eq!(refused(upload(&cell, "absolute", b"x", None)), FileError::NotRegular);
    assert_eq!(refused(upload(&cell, "directory", b"x", None)), FileError::Conflict);
    assert_eq!(refused(upload(&cell, "fifo/x", b"x", None)), FileError::Conflict);
    assert_eq!(download(&cell, "none"), Err(FileError::NotFound));
    assert_eq!(download(&cell, "fifo/none"), Err(FileError::NotFound));
    assert_eq!(kind(&cell, "absolute"), Ok(EntryKind::Symlink));
    assert_eq!(kind(&cell, "fifo"), Ok(EntryKind::Other));
    assert_eq!(kind(&cell, ""), Ok(EntryKind::Directory));
    assert_eq!(list(&cell, "fifo", false), Err(FileError::Conflict));
    assert_eq!(list(&cell, "up", false), Err(FileError::Conflict));
    assert_eq!(list(&cell, "", true).unwrap(), ["absolute", "directory", "fifo", "self", "up"]);
}

#[test]
fn removal_follows_nothing_and_any_depth() {
    let cell = cell();
    let workspace = cell.workspace();
    let outside = cell.root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "x").unwrap();
    fs::create_dir(workspace.join("top")).unwrap();
    symlink(&outside, workspace.join("top/link")).unwrap();
    // Deeper than any path can be: made by stepping down.
    let mut here =
        rustix::fs::open(workspace.join("top"), rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..5000 {
        rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
        here = rustix::fs::openat(&here, "d", rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    assert_eq!(list(&cell, "", true), Err(FileError::TooMany));
    assert_eq!(simple(&cell, "top", DELETE).unwrap_err(), FileError::Conflict);
    assert!(matches!(simple(&cell, "top", DELETE_ALL), Ok(FileAnswer::Done)));
    assert!(!workspace.join("top").exists());
    assert!(outside.join("kept").exists());
    symlink(&outside, workspace.join("link")).unwrap();
    assert!(matches!(simple(&cell, "link", DELETE_ALL), Ok(FileAnswer::Done)));
    assert!(outside.join("kept").exists());
    assert_eq!(simple(&cell, "link", DELETE).unwrap_err(), FileError::NotFound);
    upload(&cell, "a/b", b"", None);
    assert_eq!(simple(&cell, "", DELETE).unwrap_err(), FileError::Conflict);
    assert!(matches!(simple(&cell, "", DELETE_ALL), Ok(FileAnswer::Done)));
    assert_eq!(list(&cell, "", true).unwrap(), [""; 0]);
}

#[test]
fn listings_are_bounded_sorted_and_readable() {
    let cell = cell();
    let workspace = cell.workspace();
    for number in (0..3000).rev() {
        fs::write(workspace.join(format!("{number:05}")), "").unwrap();
    }
    fs::write(workspace.join(std::ffi::OsStr::from_bytes(b"\xff\n")), "").unwrap();
    fs::write(workspace.join(".anchorhold-old"), "").unwrap();
    let paths = list(&cell, "", true).unwrap();
    assert_eq!(paths.len(), 3001);
    assert!(paths.is_sorted());
    assert_eq!(paths.last().unwrap(), "\u{fffd}\n");
}

#[test]
fn leftovers_of_a_dead_cell_are_removed() {
    let cell = Cell::prepare(&["files"]);
    let workspace = cell.workspace();
    fs::create_dir_all(workspace.join("a/b")).unwrap();
    fs::write(workspace.join("a/b/.anchorhold-dead"), "x").unwrap();
    fs::create_dir_all(workspace.join(".anchorhold-staging/taken/away")).unwrap();
    fs::write(workspace.join(".anchorhold-staging/1"), "x").unwrap();
    cell.commit(support::MEMORY);
    assert!(!workspace.join("a/b/.anchorhold-dead").exists());
    assert_eq!(fs::read_dir(&workspace).unwrap().count(), 1);
}

fn stalled_download(cell: &Cell) -> (PipeReader, anchorhold_jail::id::ExecutionId) {
    let (reader, writer) = std::io::pipe().unwrap();
    let id = cell.ask("large", FileAction::Download { part: Part::Whole }, Some(writer.as_fd()));
    assert!(matches!(cell.answer(id), FileAnswer::Found(_)));
    (reader, id)
}

#[test]
fn slow_peers_block_nobody_and_can_be_cancelled() {
    let cell = cell();
    fs::write(cell.workspace().join("large"), vec![7; 1 << 20]).unwrap();
    let mut stalled: Vec<_> = (0..3).map(|_| stalled_download(&cell)).collect();
    assert_eq!(list(&cell, "", false).unwrap(), ["large"]);
    let (_, id) = &stalled[0];
    cell.send(&ToCell::Cancel { execution: *id }, &[]);
    assert_eq!(refused(cell.answer(*id)), FileError::Incomplete);
    assert_eq!(download(&cell, "large").unwrap().len(), 1 << 20);
    // A reader that hangs up.
    let (reader, id) = stalled.swap_remove(1);
    drop(reader);
    assert!(matches!(refused(cell.answer(id)), FileError::Other(_)));
}

#[test]
fn a_new_listener_ends_what_the_old_one_asked_for() {
    let cell = cell();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let id = cell.ask("half", FileAction::Upload { length: None }, Some(reader.as_fd()));
    writer.write_all(b"half").unwrap();
    assert_eq!(list(&cell, "", true).unwrap(), [""; 0]);
    cell.send(&ToCell::Attach { generation: 9 }, &[]);
    assert!(
        matches!(cell.receive(), FromCell::Attached { generation: 9, executions } if executions.is_empty())
    );
    assert_eq!(refused(cell.answer(id)), FileError::Incomplete);
    drop(writer);
    assert_eq!(list(&cell, "", true).unwrap(), [""; 0]);
    assert!(fs::read_dir(cell.workspace()).unwrap().next().is_none());
}

#[test]
fn a_sender_that_dies_leaves_nothing() {
    let cell = cell();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let id = cell.ask("half", FileAction::Upload { length: None }, Some(reader.as_fd()));
    writer.write_all(b"half").unwrap();
    // As when its process is killed: the pipe ends, and nobody says that this was all.
    drop(writer);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(list(&cell, "", true).unwrap(), [""; 0]);
    cell.send(&ToCell::Attach { generation: 9 }, &[]);
    assert!(matches!(cell.receive(), FromCell::Attached { .. }));
    assert_eq!(refused(cell.answer(id)), FileError::Incomplete);
    assert!(fs::read_dir(cell.workspace()).unwrap().next().is_none());
}

#[test]
fn the_cell_ends_with_its_hatch() {
    let mut cell = cell();
    let (ours, _) = anchorhold_jail::packet::pair().unwrap();
    drop(std::mem::replace(&mut cell.hatch, ours));
    assert!(cell.ends());
}
