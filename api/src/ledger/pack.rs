//! How what an execution wrote is stored: as JSON, and a long one compressed, by a library without `unsafe`: guests wrote it.
//!
//! A program that floods its output would else make everybody wait: sixteen million NULs are a hundred megabytes of JSON, and
//! one write goes after the other.

use super::{ExecutionRow, LedgerError, Output};
use crate::aside::{LONG_BYTES, aside};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lz4_flex::frame::{FrameDecoder, FrameEncoder};
use std::io::{BufReader, BufWriter, Read as _, Write as _};

/// JSON begins with a brace.
const PACKED: &str = "lz4:";
/// What is read back is ours; damaged, it may say anything.
const JSON_BYTES_MAX: u64 = 1 << 30;

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
    let packed = aside(size, || -> std::io::Result<Vec<u8>> {
        let mut writer = BufWriter::with_capacity(LONG_BYTES, FrameEncoder::new(Vec::new()));
        serde_json::to_writer(&mut writer, output)?;
        writer.flush()?;
        Ok(writer.into_inner()?.finish()?)
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
            let reader = FrameDecoder::new(&packed[..]).take(JSON_BYTES_MAX);
            serde_json::from_reader(BufReader::with_capacity(LONG_BYTES, reader)).ok()
        }
    };
    aside(text.len(), read).ok_or_else(unreadable)
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
