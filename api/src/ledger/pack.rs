//! How what an execution wrote is stored: as JSON, and when it is long, its two texts as they are behind the JSON of the
//! rest, all of it compressed, by a library without `unsafe`: guests wrote it. Sixteen million NULs are a hundred megabytes
//! of JSON.

use super::{ExecutionRow, GuestError, LedgerError, Output, ReturnedFile, Rich};
use crate::aside::{LONG_BYTES, aside};
use anchorhold_sandbox::Piece;
use lz4_flex::frame::{FrameDecoder, FrameEncoder};
use serde::Serialize;
use std::io::{Read, Write as _};
use std::sync::Arc;

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
#[derive(Debug)]
pub(super) enum Packed {
    /// JSON.
    Short(String),
    /// Both texts behind the rest.
    Long(Vec<u8>),
}

pub(super) async fn pack(output: &Arc<Output>) -> Result<Packed, LedgerError> {
    let size = output.size();
    if size < LONG_BYTES {
        return Ok(Packed::Short(serde_json::to_string(&**output)?));
    }
    let output = Arc::clone(output);
    let packed = aside(size, move || -> std::io::Result<Vec<u8>> {
        let Output { stdout, stderr, results, error, files, pieces } = &*output;
        let rest = serde_json::to_vec(&Rest { results, error, files, pieces })?;
        let mut writer = FrameEncoder::new(Vec::new());
        for part in [&rest, stdout.as_bytes(), stderr.as_bytes()] {
            writer.write_all(&(part.len() as u64).to_le_bytes())?;
            writer.write_all(part)?;
        }
        Ok(writer.finish()?)
    });
    packed.await.map(Packed::Long).map_err(|_| LedgerError::Stored("output"))
}

/// What was stored and long.
pub(super) async fn unpack(packed: Vec<u8>) -> Result<Output, LedgerError> {
    let read = move || {
        let mut reader = FrameDecoder::new(&packed[..]);
        let rest: Output = serde_json::from_slice(&part(&mut reader)?).ok()?;
        let mut text = || String::from_utf8(part(&mut reader)?).ok();
        Some(Output { stdout: text()?, stderr: text()?, ..rest })
    };
    // It may be much longer than it is here.
    aside(LONG_BYTES, read).await.ok_or(LedgerError::Stored("output"))
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

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn what_is_stored_comes_back(text in ".{0,2000}", times in 1usize..200) {
            let output = Arc::new(Output { stdout: text.repeat(times), stderr: text, ..Output::default() });
            let stored = wait(pack(&output)).unwrap();
            prop_assert_eq!(matches!(stored, Packed::Long(_)), output.size() >= LONG_BYTES);
            let read = match stored {
                Packed::Short(json) => serde_json::from_str(&json).unwrap(),
                Packed::Long(packed) => wait(unpack(packed)).unwrap(),
            };
            prop_assert_eq!(read, (*output).clone());
        }
    }

    #[test]
    fn a_flood_is_stored_small() {
        let output = Arc::new(Output { stdout: "\0".repeat(16 << 20), ..Output::default() });
        let Packed::Long(packed) = wait(pack(&output)).unwrap() else { panic!("it is long") };
        assert!(packed.len() < 1 << 20, "{} bytes", packed.len());
        assert_eq!(wait(unpack(packed)).unwrap(), *output);
    }

    #[test]
    fn damage_is_told() {
        let output = Arc::new(Output { stdout: "x".repeat(LONG_BYTES), ..Output::default() });
        let Packed::Long(packed) = wait(pack(&output)).unwrap() else { panic!("it is long") };
        for length in [0, 1, 4, 20, packed.len() / 2, packed.len() - 5] {
            assert!(wait(unpack(packed[..length].to_vec())).is_err(), "{length}");
        }
    }
}
