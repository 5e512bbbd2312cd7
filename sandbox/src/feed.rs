//! What an execution says, in the order it said it: for its result, and meanwhile for those who follow it.
//!
//! A place in a feed is a *position*: bytes of text and values so far, from 1 (0 is before the beginning). It is the
//! same after a restart, when a cell repeats what it said in pieces of other lengths. A follower holds a position and
//! no copy of anything, so a slow one costs nothing.

use crate::channel::locked;
use anchorhold_jail::hatch::Stream;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// The position behind the beginning: what a feed starts with.
pub const BEGINNING: u64 = 1;
/// The longest character that is cut into two pieces.
const CHAR_BYTES_MAX: usize = 4;

/// What a piece is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PieceKind {
    /// Standard output; counted in bytes of text.
    Stdout,
    /// Standard error; likewise.
    Stderr,
    /// A rich value; counts as one.
    Value,
}

/// A piece of what was said; all of them in order are everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// What of.
    pub kind: PieceKind,
    /// How much.
    pub length: usize,
    /// When it arrived, in microseconds since 1970.
    pub at_us: i64,
}

/// Where a piece is, as far as it is behind a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// What of.
    pub kind: PieceKind,
    /// Which bytes of the stream's text, or which value (a range of one).
    pub range: Range<usize>,
    /// The position behind it.
    pub position: u64,
    /// When it arrived, in microseconds since 1970.
    pub at_us: i64,
}

/// What of `pieces` is behind the position `after`, in order.
pub fn slices(pieces: &[Piece], after: u64) -> impl Iterator<Item = Slice> {
    let mut ends = [0, 0, 0];
    let mut position = BEGINNING;
    pieces.iter().filter_map(move |piece| {
        let end = &mut ends[piece.kind as usize];
        let start = *end;
        *end += piece.length;
        let before = position;
        position += piece.length as u64;
        let skipped = usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX);
        (skipped < piece.length).then(|| Slice {
            kind: piece.kind,
            range: start + skipped..*end,
            position,
            at_us: piece.at_us,
        })
    })
}

/// Everything that was said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transcript {
    /// Standard output as text; what is not UTF-8 is U+FFFD.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
    /// Rich values: JSON of bounded size and depth.
    pub values: Vec<Vec<u8>>,
    /// The order of it all.
    pub pieces: Vec<Piece>,
}

impl Transcript {
    fn text(&mut self, stream: Stream) -> (&mut String, PieceKind) {
        match stream {
            Stream::Stdout => (&mut self.stdout, PieceKind::Stdout),
            Stream::Stderr => (&mut self.stderr, PieceKind::Stderr),
        }
    }

    fn note(&mut self, kind: PieceKind, length: usize) {
        if length > 0 {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let at_us = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
            self.pieces.push(Piece { kind, length, at_us });
        }
    }

    fn position(&self) -> u64 {
        BEGINNING + (self.stdout.len() + self.stderr.len() + self.values.len()) as u64
    }
}

/// What a follower is given at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Text of a stream.
    Text(PieceKind, String),
    /// A rich value.
    Value(Vec<u8>),
}

#[derive(Debug, Default)]
struct Log {
    said: Transcript,
    /// The beginning of a character whose end has not come, of each stream.
    tails: [Vec<u8>; 2],
}

/// Where a feed is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    position: u64,
    over: bool,
}

#[derive(Debug)]
struct Shared {
    log: Mutex<Log>,
    progress: watch::Sender<Progress>,
}

/// The writing end.
#[derive(Debug, Clone)]
pub(crate) struct Feed(Arc<Shared>);

impl Default for Feed {
    fn default() -> Self {
        let progress = Progress { position: BEGINNING, over: false };
        Self(Arc::new(Shared { log: Mutex::default(), progress: watch::Sender::new(progress) }))
    }
}

impl Feed {
    /// A piece of output. Returns what it takes in an answer, in bytes.
    pub(crate) fn output(&self, stream: Stream, bytes: &[u8]) -> usize {
        let mut log = locked(&self.0.log);
        let mut whole = std::mem::take(&mut log.tails[stream as usize]);
        whole.extend_from_slice(bytes);
        let text = decode(&mut whole);
        log.tails[stream as usize] = whole;
        let (all, kind) = log.said.text(stream);
        all.push_str(&text);
        log.said.note(kind, text.len());
        self.tell(&log, false);
        in_json(&text)
    }

    /// A rich value.
    pub(crate) fn value(&self, json: Vec<u8>) {
        let mut log = locked(&self.0.log);
        log.said.values.push(json);
        log.said.note(PieceKind::Value, 1);
        self.tell(&log, false);
    }

    /// Nothing more is said. What was, for the result.
    pub(crate) fn end(&self) -> Transcript {
        let mut log = locked(&self.0.log);
        for stream in [Stream::Stdout, Stream::Stderr] {
            if !std::mem::take(&mut log.tails[stream as usize]).is_empty() {
                let (all, kind) = log.said.text(stream);
                all.push(char::REPLACEMENT_CHARACTER);
                log.said.note(kind, char::REPLACEMENT_CHARACTER.len_utf8());
            }
        }
        self.tell(&log, true);
        // Followers still read it.
        if self.0.progress.receiver_count() > 0 { log.said.clone() } else { std::mem::take(&mut log.said) }
    }

    /// Somebody follows.
    pub(crate) fn follow(&self) -> Follower {
        let log = locked(&self.0.log);
        let progress = self.0.progress.subscribe();
        drop(log);
        Follower { shared: Arc::clone(&self.0), progress }
    }

    fn tell(&self, log: &Log, over: bool) {
        // Most executions are followed by nobody.
        if over || self.0.progress.receiver_count() > 0 {
            self.0.progress.send_replace(Progress { position: log.said.position(), over });
        }
    }
}

/// Reads a feed while it is written and after.
#[derive(Debug)]
pub struct Follower {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
}

impl Follower {
    /// What is behind the position `after`, each with the position behind it and its time; at least one piece, and no
    /// more than `bytes_max` where there are several. Waits for it. `None`: it is over and there is nothing more.
    pub async fn next(&mut self, after: u64, bytes_max: usize) -> Option<Vec<(Said, u64, i64)>> {
        loop {
            let over = self.progress.borrow_and_update().over;
            let said = self.read(after, bytes_max);
            if !said.is_empty() {
                return Some(said);
            }
            if over || self.progress.changed().await.is_err() {
                return None;
            }
        }
    }

    fn read(&self, after: u64, bytes_max: usize) -> Vec<(Said, u64, i64)> {
        let log = locked(&self.shared.log);
        let mut left = bytes_max;
        let mut said = Vec::new();
        for slice in slices(&log.said.pieces, after) {
            let one = match slice.kind {
                PieceKind::Stdout => Said::Text(slice.kind, cut(&log.said.stdout, slice.range)),
                PieceKind::Stderr => Said::Text(slice.kind, cut(&log.said.stderr, slice.range)),
                PieceKind::Value => {
                    Said::Value(log.said.values.get(slice.range.start).cloned().unwrap_or_default())
                }
            };
            let length = match &one {
                Said::Text(_, text) => text.len(),
                Said::Value(json) => json.len(),
            };
            said.push((one, slice.position, slice.at_us));
            left = left.saturating_sub(length);
            if left == 0 {
                break;
            }
        }
        said
    }
}

/// A part of a text; from the beginning of the character that it starts in.
pub fn cut(text: &str, range: Range<usize>) -> String {
    let (start, end) = (text.floor_char_boundary(range.start), text.floor_char_boundary(range.end));
    text.get(start..end).unwrap_or_default().to_owned()
}

/// Takes all text from the front; what may be the beginning of a character stays.
fn decode(bytes: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut tail = Vec::new();
    let mut chunks = bytes.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.push_str(chunk.valid());
        let bad = chunk.invalid();
        let begun = std::str::from_utf8(bad).is_err_and(|error| error.error_len().is_none());
        if begun && chunks.peek().is_none() {
            tail = bad.to_vec();
        } else if !bad.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    debug_assert!(tail.len() < CHAR_BYTES_MAX, "more than a character is kept back");
    *bytes = tail;
    text
}

/// What a text takes in an answer, in bytes: most control characters are six there, which is what they cost all who hand
/// them on.
fn in_json(text: &str) -> usize {
    let length = |byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(length).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn output() -> impl Strategy<Value = Vec<(bool, Vec<u8>)>> {
        let text = prop_oneof![any::<Vec<u8>>(), ".{0,8}".prop_map(String::into_bytes)];
        proptest::collection::vec((any::<bool>(), text), 0..12)
    }

    fn stream(error: bool) -> Stream {
        if error { Stream::Stderr } else { Stream::Stdout }
    }

    proptest! {
        #[test]
        fn a_text_takes_what_it_is_in_json(text in any::<String>()) {
            prop_assert_eq!(in_json(&text), serde_json::to_string(&text).unwrap().len() - 2);
        }

        /// However a stream is cut into pieces, its text is that of the whole.
        #[test]
        fn pieces_make_the_whole(pieces in output()) {
            let feed = Feed::default();
            for (error, bytes) in &pieces {
                feed.output(stream(*error), bytes);
            }
            let said = feed.end();
            for (error, text) in [(false, &said.stdout), (true, &said.stderr)] {
                let whole: Vec<u8> =
                    pieces.iter().filter(|(e, _)| *e == error).flat_map(|(_, b)| b.clone()).collect();
                prop_assert_eq!(text, &*String::from_utf8_lossy(&whole));
            }
        }

        /// Whoever reads from any position of a text of one byte a letter gets exactly the rest.
        #[test]
        fn a_position_is_where_the_rest_begins(
            pieces in proptest::collection::vec((any::<bool>(), "[a-z]{1,5}"), 1..12),
            after in 0u64..80,
        ) {
            let feed = Feed::default();
            for (error, text) in &pieces {
                feed.output(stream(*error), text.as_bytes());
            }
            let follower = feed.follow();
            let whole: String = pieces.iter().map(|(_, text)| text.as_str()).collect();
            let skipped = usize::try_from(after.saturating_sub(BEGINNING)).unwrap().min(whole.len());
            let read = follower.read(after, usize::MAX);
            let rest: String = read
                .iter()
                .map(|(said, ..)| match said {
                    Said::Text(_, text) => text.as_str(),
                    Said::Value(_) => "",
                })
                .collect();
            prop_assert_eq!(&rest, &whole[skipped..]);
            if let Some((_, position, _)) = read.last() {
                prop_assert_eq!(*position, BEGINNING + whole.len() as u64);
            }
        }
    }

    #[tokio::test]
    async fn a_follower_sees_everything_once_and_the_end() {
        let feed = Feed::default();
        let mut follower = feed.follow();
        let reading = tokio::spawn(async move {
            let (mut all, mut after) = (String::new(), 0);
            while let Some(said) = follower.next(after, 8).await {
                for (said, position, _) in said {
                    after = position;
                    if let Said::Text(_, text) = said {
                        all += &text;
                    }
                }
            }
            all
        });
        for n in 0..200 {
            feed.output(Stream::Stdout, format!("{n} ").as_bytes());
            tokio::task::yield_now().await;
        }
        let said = feed.end();
        assert_eq!(reading.await.unwrap(), said.stdout);
    }
}
