//! How what an execution wrote is stored: as JSON, and when it is long, its two texts as they are behind the JSON of the
//! rest, all of it compressed, by a library without `unsafe`: guests wrote it.
//!
//! A program that floods its output would else make everybody wait: sixteen million NULs are a hundred megabytes of JSON, and
//! one write goes after the other.

use super::{ExecutionRow, GuestError, LedgerError, Output, ReturnedFile, Rich};
use crate::aside::{LONG_BYTES, aside};
use anchorhold_sandbox::Piece;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lz4_flex::frame::{FrameDecoder, FrameEncoder};
use serde::Serialize;
use std::io::{Read, Write as _};

/// JSON begins with a brace.
const PACKED: &str = "lz4:";
/// What is read back is ours; damaged, it may say anything.
const PART_BYTES_MAX: u64 = 1 << 30;

/// All but the two texts.
#[derive(Serialize)]
struct Rest<'a> {
    results: &'a [Rich],
    error: &'a Option<GuestError>,
    files: &'a Option<Vec<ReturnedFile>>,
    pieces: &'a [Piece],
}

impl Output {
    /// About how many bytes it has.
    pub(crate) fn size(&self) -> usize {
        let texts = self.results.iter().flat_map(|rich| rich.mime.values());
        let texts = texts.filter_map(|value| value.as_str()).map(str::len);
        self.stdout.len() + self.stderr.len() + texts.sum::<usize>()
    }
}

impl ExecutionRow {
    /// About how many bytes it has of what was written.
    pub(crate) fn size(&self) -> usize {
        self.output.as_ref().map_or(0, Output::size)
    }
}

/// As it is stored.
pub(super) fn pack(output: &Output) -> Result<String, LedgerError> {
    let size = output.size();
    if size < LONG_BYTES {
        return Ok(serde_json::to_string(output)?);
    }
    let Output { stdout, stderr, results, error, files, pieces } = output;
    let packed = aside(size, || -> std::io::Result<Vec<u8>> {
        let rest = serde_json::to_vec(&Rest { results, error, files, pieces })?;
        let mut writer = FrameEncoder::new(Vec::new());
        for part in [&rest, stdout.as_bytes(), stderr.as_bytes()] {
            writer.write_all(&(part.len() as u64).to_le_bytes())?;
            writer.write_all(part)?;
        }
        Ok(writer.finish()?)
    });
    let packed = packed.map_err(|_| LedgerError::Stored("output"))?;
    Ok(PACKED.to_owned() + &STANDARD.encode(packed))
}

/// What was stored.
pub(super) fn unpack(text: &str) -> Result<Output, LedgerError> {
    let unreadable = || LedgerError::Stored("output");
    let read = || match text.strip_prefix(PACKED) {
        None => serde_json::from_str(text).ok(),
        Some(packed) => {
            let packed = STANDARD.decode(packed).ok()?;
            let mut reader = FrameDecoder::new(&packed[..]);
            let rest: Output = serde_json::from_slice(&part(&mut reader)?).ok()?;
            let mut text = || String::from_utf8(part(&mut reader)?).ok();
            Some(Output { stdout: text()?, stderr: text()?, ..rest })
        }
    };
    aside(text.len(), read).ok_or_else(unreadable)
}

/// The next part, behind its length.
fn part(reader: &mut impl Read) -> Option<Vec<u8>> {
    let mut length = [0; 8];
    reader.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    let mut part = Vec::new();
    let read = reader.take(length.min(PART_BYTES_MAX)).read_to_end(&mut part).ok()?;
    (read as u64 == length).then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_stored_comes_back(text in ".{0,2000}", times in 1usize..200) {
            let output = Output { stdout: text.repeat(times), stderr: text, ..Output::default() };
            let stored = pack(&output).unwrap();
            prop_assert_eq!(stored.starts_with(PACKED), output.size() >= LONG_BYTES);
            prop_assert_eq!(unpack(&stored).unwrap(), output);
        }
    }

    #[test]
    fn a_flood_is_stored_small() {
        let output = Output { stdout: "\0".repeat(16 << 20), ..Output::default() };
        let stored = pack(&output).unwrap();
        assert!(stored.len() < 1 << 20, "{} bytes", stored.len());
        assert_eq!(unpack(&stored).unwrap(), output);
    }

    #[test]
    fn damage_is_told() {
        for text in ["", "lz4:", "lz4:AAAA", "lz4:*", "{", "[]"] {
            assert!(unpack(text).is_err(), "{text}");
        }
    }
}
