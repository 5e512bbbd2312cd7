//! The store: `blobs/<sha256>.cwasm` for modules, `trees/<sha256>` with its `.list` for roots, and one `<name>.json` per
//! image that names one of them.
//!
//! A manifest is renamed into place after what it names is complete, so a reader sees the old image or
//! the new one. What no manifest names is removed after a build.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wasmtime::{Engine, Module};

use crate::engine;

/// What the warden and the cell need to know about an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub name: String,
    pub kind: Kind,
    /// `sha256:` and the hash of the blob.
    pub digest: String,
    /// `sha256:` and the hash of everything the blob was made from.
    pub recipe: String,
    pub size_bytes: u64,
    pub language: Language,
    pub version: String,
    pub built_with: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A module that was compiled to native code.
    Wasm,
    /// A directory that is the root of a cell.
    Root,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    Python,
    Javascript,
    Browser,
    /// Several, in one root.
    Native,
}

impl std::fmt::Display for Language {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Python => "python",
            Self::Javascript => "javascript",
            Self::Browser => "browser",
            Self::Native => "native",
        })
    }
}

/// An image, loaded.
pub struct Image {
    pub engine: Engine,
    pub module: Module,
    pub load_time: Duration,
}

pub struct Store {
    directory: PathBuf,
}

impl Store {
    pub fn open(directory: Option<PathBuf>) -> Result<Self> {
        let directory = match directory {
            Some(directory) => directory,
            None => cache_directory()?.join("images"),
        };
        for part in ["blobs", "trees"] {
            fs::create_dir_all(directory.join(part))
                .with_context(|| format!("cannot make the store {}", directory.display()))?;
        }
        Ok(Self { directory })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn manifest(&self, name: &str) -> Result<Option<Manifest>> {
        let path = self.manifest_path(name);
        match fs::read(&path) {
            Ok(bytes) => {
                let manifest = serde_json::from_slice(&bytes)
                    .with_context(|| format!("{} is not a manifest", path.display()))?;
                Ok(Some(manifest))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{}", path.display())),
        }
    }

    pub fn list(&self) -> Result<Vec<Manifest>> {
        let mut manifests = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "json") {
                let name =
                    path.file_stem().and_then(|n| n.to_str()).context("a manifest's name is not text")?;
                manifests.extend(self.manifest(name)?);
            }
        }
        manifests.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(manifests)
    }

    /// Whether the store holds this image, made from this recipe, with its blob in place.
    pub fn holds(&self, name: &str, recipe: &str) -> Result<bool> {
        let Some(manifest) = self.manifest(name)? else { return Ok(false) };
        let there = match manifest.kind {
            Kind::Wasm => {
                let size = fs::metadata(self.blob_path(&manifest.digest)?).map(|m| m.len()).ok();
                size == Some(manifest.size_bytes)
            }
            Kind::Root => {
                let tree = self.tree_path(&manifest.digest)?;
                tree.is_dir() && list_path(&tree).is_file()
            }
        };
        Ok(manifest.recipe == recipe && there)
    }

    /// Load an image after checking its digest.
    pub fn load(&self, name: &str) -> Result<Image> {
        let manifest = self
            .manifest(name)?
            .with_context(|| format!("no image {name} in {}", self.directory.display()))?;
        let path = self.blob_path(&manifest.digest)?;
        let found = sha256(&fs::read(&path).with_context(|| format!("{}", path.display()))?);
        if found != manifest.digest {
            bail!("{} has digest {found}, its manifest says {}", path.display(), manifest.digest);
        }
        load_blob(&path)
    }

    /// Held while building: another build's blob that has no name yet must not be swept away. Waits.
    pub fn lock(&self) -> Result<fs::File> {
        let file = fs::File::create(self.directory.join(".lock"))?;
        file.lock().context("cannot lock the store")?;
        Ok(file)
    }

    /// Put a blob beside the others, unnamed as yet. Returns its digest and path.
    pub fn add_blob(&self, bytes: &[u8]) -> Result<(String, PathBuf)> {
        let digest = sha256(bytes);
        let path = self.blob_path(&digest)?;
        write_atomically(&path, bytes)?;
        Ok((digest, path))
    }

    /// Where a tree is made: beside the others, so that it can be renamed to its place.
    pub fn new_tree(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::Builder::new().prefix(".new-").tempdir_in(self.directory.join("trees"))?)
    }

    /// Put a tree beside the others, unnamed as yet, with the list that its digest is of. Returns the digest.
    pub fn add_tree(&self, tree: &Path, list: &str) -> Result<String> {
        let digest = sha256(list.as_bytes());
        let path = self.tree_path(&digest)?;
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::rename(tree, &path).with_context(|| format!("cannot make {}", path.display()))?;
        write_atomically(&list_path(&path), list.as_bytes())?;
        Ok(digest)
    }

    /// Name a blob or a tree, last of all steps.
    pub fn publish(&self, manifest: &Manifest) -> Result<()> {
        let mut json = serde_json::to_vec_pretty(manifest)?;
        json.push(b'\n');
        write_atomically(&self.manifest_path(&manifest.name), &json)?;
        self.remove_unnamed()
    }

    fn remove_unnamed(&self) -> Result<()> {
        let mut named = Vec::new();
        for manifest in self.list()? {
            let tree = self.tree_path(&manifest.digest)?;
            named.extend([self.blob_path(&manifest.digest)?, list_path(&tree), tree]);
        }
        for part in ["blobs", "trees"] {
            for entry in fs::read_dir(self.directory.join(part))? {
                let path = entry?.path();
                match path.is_dir() {
                    _ if named.contains(&path) => {}
                    true => fs::remove_dir_all(&path)?,
                    false => fs::remove_file(&path)?,
                }
            }
        }
        Ok(())
    }

    fn manifest_path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }

    fn blob_path(&self, digest: &str) -> Result<PathBuf> {
        Ok(self.directory.join("blobs").join(format!("{}.cwasm", digits(digest)?)))
    }

    fn tree_path(&self, digest: &str) -> Result<PathBuf> {
        Ok(self.directory.join("trees").join(digits(digest)?))
    }
}

/// What a digest's files are called by.
fn digits(digest: &str) -> Result<&str> {
    let hex = digest.strip_prefix("sha256:").context("a digest starts with sha256:")?;
    if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        bail!("{digest} is not a digest");
    }
    Ok(hex)
}

/// The list of a tree's files is beside it.
fn list_path(tree: &Path) -> PathBuf {
    tree.with_extension("list")
}

/// Where everything that can be made again lives.
pub fn cache_directory() -> Result<PathBuf> {
    let cache = match std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(cache.join("anchorhold"))
}

/// Map a blob into this process.
pub fn load_blob(path: &Path) -> Result<Image> {
    let begun = Instant::now();
    let engine = Engine::new(&engine::config())?;
    // SAFETY: the file was written by this program into a store that only its owner can write: by
    // `add_blob` in this very process, or earlier, and then `load` has compared its digest.
    let module = unsafe { Module::deserialize_file(&engine, path) }
        .map_err(anyhow::Error::from)
        .with_context(|| format!("cannot load {}", path.display()))?;
    Ok(Image { engine, module, load_time: begun.elapsed() })
}

pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = path.parent().context("a file in a directory")?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    // Cells read the store under uids of their own.
    fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(store: &Store, bytes: &[u8], recipe: &str) -> Manifest {
        let (digest, _) = store.add_blob(bytes).unwrap();
        Manifest {
            name: "guest".into(),
            kind: Kind::Wasm,
            digest,
            recipe: recipe.into(),
            size_bytes: bytes.len() as u64,
            language: Language::Python,
            version: "1".into(),
            built_with: "test".into(),
        }
    }

    #[test]
    fn an_image_is_held_only_under_its_recipe_and_with_its_blob() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(Some(directory.path().to_owned())).unwrap();
        assert!(!store.holds("guest", "sha256:1").unwrap());
        let manifest = manifest(&store, b"code", "sha256:1");
        store.publish(&manifest).unwrap();
        assert!(store.holds("guest", "sha256:1").unwrap());
        assert!(!store.holds("guest", "sha256:2").unwrap());
        fs::remove_file(store.blob_path(&manifest.digest).unwrap()).unwrap();
        assert!(!store.holds("guest", "sha256:1").unwrap());
    }

    #[test]
    fn a_new_image_takes_the_place_of_the_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(Some(directory.path().to_owned())).unwrap();
        store.publish(&manifest(&store, b"old", "sha256:1")).unwrap();
        store.publish(&manifest(&store, b"new", "sha256:2")).unwrap();
        assert_eq!(store.list().unwrap().len(), 1);
        assert_eq!(fs::read_dir(directory.path().join("blobs")).unwrap().count(), 1);
    }

    #[test]
    fn a_changed_blob_is_not_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(Some(directory.path().to_owned())).unwrap();
        let manifest = manifest(&store, b"code", "sha256:1");
        store.publish(&manifest).unwrap();
        fs::write(store.blob_path(&manifest.digest).unwrap(), b"evil").unwrap();
        let error = store.load("guest").err().unwrap().to_string();
        assert!(error.contains("has digest"), "{error}");
    }

    #[test]
    fn a_digest_cannot_name_a_path() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(Some(directory.path().to_owned())).unwrap();
        assert!(store.blob_path("sha256:../../etc/passwd").is_err());
    }
}
