//! The image store as the warden reads it: manifests beside content-addressed blobs.
//!
//! The store belongs to root. Every blob is hashed before it is offered: an image whose bytes are not what its
//! manifest says is refused.

use super::zygotes::OpenImage;
use crate::control::{Digest, Image};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why an image is not offered.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file of the store.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    /// The manifest.
    #[error("{0}: not a manifest: {1}")]
    Manifest(PathBuf, String),
    /// The bytes are others than the manifest says.
    #[error("{0}: the content does not have the digest of its manifest")]
    Digest(PathBuf),
    /// Somebody else than root could change it.
    #[error("{0}: must belong to root and be writable by nobody else")]
    Writable(PathBuf),
}

#[derive(Debug, Deserialize)]
struct Manifest {
    name: String,
    kind: String,
    digest: String,
    language: String,
}

/// Opens every wasm image of a store. A store that does not exist has none.
pub fn open_all(store: &Path) -> Result<Vec<OpenImage>, ImageError> {
    let entries = match fs::read_dir(store) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|e| ImageError::Io(store.to_owned(), e))?,
    };
    let mut manifests: Vec<PathBuf> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    manifests.sort();
    let images = manifests.iter().map(|manifest| open(store, manifest));
    images.filter_map(Result::transpose).collect()
}

fn open(store: &Path, path: &Path) -> Result<Option<OpenImage>, ImageError> {
    check_owner(path, &fs::metadata(path).map_err(|e| ImageError::Io(path.to_owned(), e))?)?;
    let text = fs::read(path).map_err(|e| ImageError::Io(path.to_owned(), e))?;
    let bad = |e: String| ImageError::Manifest(path.to_owned(), e);
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
    if manifest.kind != "wasm" {
        return Ok(None);
    }
    let digest: Digest =
        manifest.digest.parse().map_err(|e: crate::control::DigestError| bad(e.to_string()))?;
    let blob = store.join("blobs").join(format!("{digest}.cwasm"));
    let mut file = File::open(&blob).map_err(|e| ImageError::Io(blob.clone(), e))?;
    check_owner(&blob, &file.metadata().map_err(|e| ImageError::Io(blob.clone(), e))?)?;
    if hash(&mut file).map_err(|e| ImageError::Io(blob.clone(), e))? != digest {
        return Err(ImageError::Digest(blob));
    }
    Ok(Some(OpenImage { image: Image { name: manifest.name, language: manifest.language, digest }, file }))
}

fn check_owner(path: &Path, metadata: &fs::Metadata) -> Result<(), ImageError> {
    if metadata.uid() == 0 && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(ImageError::Writable(path.to_owned()))
}

fn hash(file: &mut File) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    file.rewind()?;
    Ok(Digest(hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(content: &[u8], digest: &str) -> tempfile::TempDir {
        let store = tempfile::tempdir().unwrap();
        fs::create_dir(store.path().join("blobs")).unwrap();
        let manifest = format!(
            "{{\"name\":\"n\",\"kind\":\"wasm\",\"language\":\"python\",\"digest\":\"sha256:{digest}\"}}"
        );
        fs::write(store.path().join("n.json"), manifest).unwrap();
        fs::write(store.path().join(format!("blobs/{digest}.cwasm")), content).unwrap();
        store
    }

    #[test]
    fn changed_content_is_refused() {
        let truth = Digest(Sha256::digest(b"module").into()).to_string();
        if nix::unistd::geteuid().is_root() {
            assert_eq!(open_all(store(b"module", &truth).path()).unwrap().len(), 1);
            let changed = open_all(store(b"modulf", &truth).path());
            assert!(matches!(changed, Err(ImageError::Digest(_))), "{changed:?}");
        }
        assert!(open_all(Path::new("/nonexistent")).unwrap().is_empty());
    }
}
