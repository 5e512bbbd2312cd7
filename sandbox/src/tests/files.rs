//! File operations, with files cells that keep their word and others.

use super::*;
use crate::{ArchiveFormat, Change, FileError, Part, WorkspacePath};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::io;

fn path(text: &str) -> WorkspacePath {
    text.parse().unwrap()
}

fn body(chunks: usize) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send + Unpin {
    stream::iter((0..chunks).map(|_| Ok(Bytes::from(vec![b'a'; 100_000]))))
}

#[tokio::test]
async fn operations_share_one_cell() {
    let (warden, sandbox, mut events) = start().await;
    let session = sandbox.open(spec());
    assert_eq!(session.stat(&path("a")).await.unwrap().size, 3);
    assert_eq!(session.stat(&path("b")).await, Err(Error::File(FileError::NotFound)));
    assert_eq!(session.list(&path("dir"), true).await.unwrap().len(), 1001);
    assert_eq!(session.delete(&path("a"), false).await, Ok(()));
    let written = session.upload(&path("new"), Some(300_000), body(3)).await.unwrap();
    assert_eq!((written.size, written.sha256), (300_000, [3; 32]));
    assert_eq!(session.upload(&path("new"), None, body(50)).await.unwrap().size, 5_000_000);
    let download = session.download(&path("exact"), Part::Whole).await.unwrap();
    assert_eq!(download.entry.size, 300_000);
    let content: Vec<Bytes> = download.body.try_collect().await.unwrap();
    assert_eq!(content.iter().map(Bytes::len).sum::<usize>(), 300_000);
    assert_eq!(warden.cells().len(), 1);
    session.close().await.unwrap();
    assert_eq!(cell_ended(&mut events).await.1, Some(0));
}

#[tokio::test]
async fn an_upload_that_breaks_off_changes_nothing() {
    let (warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    let incomplete = Err(Error::File(FileError::Incomplete));
    assert_eq!(session.upload(&path("f"), Some(300_001), body(3)).await, incomplete, "too short");
    assert_eq!(session.upload(&path("f"), Some(299_999), body(3)).await, incomplete, "too long");
    assert_eq!(session.upload(&path("f"), Some(0), body(1)).await, incomplete, "too long for nothing");
    let broken = || body(1).chain(stream::iter([Err(io::Error::other("the client is gone"))]));
    assert_eq!(session.upload(&path("f"), Some(300_000), broken()).await, incomplete);
    assert_eq!(session.upload(&path("f"), None, broken()).await, incomplete);
    // The caller itself is dropped.
    let endless = body(1).chain(stream::pending());
    let target = path("f");
    let upload = session.upload(&target, None, endless);
    assert!(tokio::time::timeout(Duration::from_millis(50), upload).await.is_err());
    assert_eq!(
        session.upload(&path("refused"), None, body(1).chain(stream::pending())).await,
        Err(Error::File(FileError::NoSpace)),
        "refused while it is sent"
    );
    assert_eq!(session.upload(&path("f"), Some(0), body(0)).await.unwrap().size, 0);
    assert_eq!(warden.cells().len(), 1, "nobody had to die for it");
}

#[tokio::test]
async fn a_download_is_exactly_as_long_as_its_entry_says() {
    let (_warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    for _ in 0..10 {
        let longer = session.download(&path("longer"), Part::Whole).await.unwrap();
        let content: Vec<Bytes> = longer.body.try_collect().await.unwrap();
        assert_eq!(content.iter().map(Bytes::len).sum::<usize>(), 300_000);
    }
    let mut shorter = session.download(&path("shorter"), Part::Whole).await.unwrap().body;
    let mut read = 0;
    let error = loop {
        match shorter.next().await.expect("an error before the end") {
            Ok(bytes) => read += bytes.len(),
            Err(error) => break error,
        }
    };
    assert_eq!((read, error.kind()), (200_000, io::ErrorKind::UnexpectedEof));
    assert!(shorter.next().await.is_none());
    for _ in 0..10 {
        drop(session.download(&path("longer"), Part::Whole).await.unwrap());
    }
    assert_eq!(
        session.download(&path("none"), Part::Whole).await.map(|_| ()),
        Err(Error::File(FileError::NotFound))
    );
}

#[tokio::test]
async fn a_part_is_as_long_as_what_was_asked_for() {
    let (_warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    let part = Part::Span { first: 299_990, last: 400_000 };
    // The pipe has more than the part.
    let download = session.download(&path("exact"), part).await.unwrap();
    assert_eq!(download.range, 299_990..300_000);
    let content: Vec<Bytes> = download.body.try_collect().await.unwrap();
    assert_eq!(content.iter().map(Bytes::len).sum::<usize>(), 10);
    let outside = Part::Span { first: 300_000, last: 400_000 };
    let lied = session.download(&path("exact"), outside).await.map(|_| ());
    assert_eq!(lied, Err(Error::Lost), "it found what is not there");
}

#[tokio::test]
async fn an_archive_is_whole_when_the_cell_says_so() {
    let (warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    let pack = async |what: &str| session.pack(&path(what), ArchiveFormat::Zip).await;
    let content: Vec<Bytes> = pack("exact").await.unwrap().try_collect().await.unwrap();
    assert_eq!(content.iter().map(Bytes::len).sum::<usize>(), 300_000);
    for what in ["cut", "dies"] {
        let mut body = pack(what).await.unwrap();
        let error = loop {
            match body.next().await.expect("an error before the end") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{what}");
        assert!(body.next().await.is_none());
    }
    assert_eq!(pack("none").await.map(|_| ()), Err(Error::File(FileError::NotFound)));
    assert_eq!(warden.cells().len(), 1, "so far it kept to the protocol");
    assert_eq!(pack("hasty").await.map(|_| ()), Err(Error::Lost));
}

#[tokio::test]
async fn a_refused_change_is_one_of_those_asked_for() {
    let (_warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    let change = || Change::MakeDirectory { path: "d".into() };
    let refused = session.batch(vec![change(), change()]).await;
    assert_eq!(refused, Err(Error::Change { index: 1, why: FileError::Conflict }));
    assert_eq!(session.batch(vec![change()]).await, Err(Error::Lost));
}

#[tokio::test]
async fn a_files_cell_that_lies_is_replaced() {
    let (warden, sandbox, _events) = start().await;
    let session = sandbox.open(spec());
    session.stat(&path("a")).await.unwrap();
    let first = warden.cells();
    assert_eq!(session.stat(&path("lie")).await, Err(Error::Lost));
    assert_eq!(session.stat(&path("a")).await.unwrap().size, 3);
    assert_eq!(
        session.upload(&path("hasty"), None, body(1).chain(stream::pending())).await,
        Err(Error::Lost)
    );
    assert_eq!(session.stat(&path("a")).await.unwrap().size, 3);
    assert_eq!(session.list(&path("endless"), true).await, Err(Error::Lost));
    assert_eq!(session.stat(&path("a")).await.unwrap().size, 3);
    assert!(!warden.cells().contains(&first[0]));
    assert!(!run(&session, "quick").await.unwrap().state_lost);
}
