//! The image store as the warden reads it: manifests beside content-addressed blobs.
//!
//! The store belongs to root. A module is hashed before it is offered; of a tree the list of its files is, and every
//! file's kind, size, mode and owner are compared with it (the builder compares contents: hashing hundreds of
//! megabytes at each start would take seconds). An image that is not what its manifest says is refused.

use super::zygotes::OpenImage;
use crate::control::{Class, Digest, Image};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
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
    /// A tree holds something else than its list says.
    #[error("{0}: not as the image's list of files says")]
    Tree(PathBuf),
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

/// Opens every image of a store. A store that does not exist has none.
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
    let digest: Digest =
        manifest.digest.parse().map_err(|e: crate::control::DigestError| bad(e.to_string()))?;
    let (class, file) = match (manifest.kind.as_str(), manifest.language.as_str()) {
        ("wasm", _) => (Class::Wasm, module(store, digest)?),
        ("root", "browser") => (Class::Browser, tree(store, digest)?),
        ("root", "native") => (Class::Native, tree(store, digest)?),
        _ => return Ok(None),
    };
    let image = Image { name: manifest.name, class, language: manifest.language, digest };
    Ok(Some(OpenImage { image, file }))
}

fn module(store: &Path, digest: Digest) -> Result<File, ImageError> {
    let path = store.join("blobs").join(format!("{digest}.cwasm"));
    open_hashed(&path, digest)
}

/// A file whose content has this digest.
fn open_hashed(path: &Path, digest: Digest) -> Result<File, ImageError> {
    let io = |e| ImageError::Io(path.to_owned(), e);
    let mut file = File::open(path).map_err(io)?;
    check_owner(path, &file.metadata().map_err(io)?)?;
    if hash(&mut file).map_err(io)? == digest { Ok(file) } else { Err(ImageError::Digest(path.to_owned())) }
}

/// The directory of a tree whose list has this digest, and which holds what the list says and nothing else.
fn tree(store: &Path, digest: Digest) -> Result<File, ImageError> {
    let list = store.join("trees").join(format!("{digest}.list"));
    let mut text = String::new();
    let io = |path: &Path| {
        let path = path.to_owned();
        move |e| ImageError::Io(path, e)
    };
    open_hashed(&list, digest)?.read_to_string(&mut text).map_err(io(&list))?;
    let root = store.join("trees").join(digest.to_string());
    let mut listed: HashMap<&str, &str> = text.lines().filter_map(entry).collect();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(io(&folder))? {
            let path = entry.map_err(io(&folder))?.path();
            let metadata = fs::symlink_metadata(&path).map_err(io(&path))?;
            let name = path.strip_prefix(&root).ok().and_then(Path::to_str);
            let said = name.and_then(|name| listed.remove(name));
            if said != Some(&*describe(&metadata)) || metadata.uid() != 0 {
                return Err(ImageError::Tree(path));
            }
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    match listed.keys().next() {
        Some(missing) => Err(ImageError::Tree(root.join(missing))),
        None => File::open(&root).map_err(io(&root)),
    }
}

/// A line of a list, `name<tab>hash mode size`, without the hash.
fn entry(line: &str) -> Option<(&str, &str)> {
    let (name, said) = line.split_once('\t')?;
    Some((name, said.split_once(' ')?.1))
}

/// What a list says of a file beside its name and its content: type and mode in octal, and the size of a regular file.
fn describe(metadata: &fs::Metadata) -> String {
    let size = if metadata.is_file() { metadata.len() } else { 0 };
    format!("{:o} {size}", metadata.mode())
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
