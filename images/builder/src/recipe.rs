//! An image folder, and the key of what it makes.

use std::{
    fs,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use wasmtime::{Config, Engine};

use crate::{
    engine,
    store::{Kind, Language, hex},
};

/// Raised when this program turns the same inputs into something else than before.
const FORMAT: u32 = 1;

/// `image.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    kind: Kind,
    language: Language,
    /// What people are told, for instance "RustPython 0.6.0".
    version: String,
    /// Folders beside this one that its guest is made of, too.
    #[serde(default)]
    shared: Vec<String>,
}

pub struct Recipe {
    pub folder: PathBuf,
    /// Folders beside it that are inputs, too.
    pub shared: Vec<PathBuf>,
    pub name: String,
    pub kind: Kind,
    pub language: Language,
    pub version: String,
    /// What its native code may ask of a processor.
    pub processor: Processor,
    /// `sha256:` and the hash of all inputs.
    pub key: String,
}

/// For which machines native code is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processor {
    /// For this one and those that can do as much.
    This,
    /// For every x86-64.
    Any,
}

impl Processor {
    /// The settings by which it is made.
    pub fn settings(self) -> Result<Config> {
        let mut settings = engine::config();
        if self == Self::Any {
            // As soon as a target is named nothing is looked up on this machine.
            settings.target("x86_64-unknown-linux-gnu")?;
        }
        Ok(settings)
    }
}

impl Recipe {
    pub fn read(folder: &Path, processor: Processor) -> Result<Self> {
        let path = folder.join("image.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        let file: File = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
        let folder = folder.canonicalize()?;
        let File { name, kind, language, version, shared } = file;
        if !is_plain(&name) {
            bail!("{}: the name must be of a-z, 0-9 and -", path.display());
        }
        if let Some(other) = shared.iter().find(|other| !is_plain(other)) {
            bail!("{}: shared is of folders beside this one, not {other}", path.display());
        }
        let shared: Vec<_> = shared.iter().map(|other| folder.join("..").join(other)).collect();
        let key = key(&folder, &shared, kind, processor)?;
        Ok(Self { folder, shared, name, kind, language, version, processor, key })
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Hash every file of the folder and of the shared ones; for a module also the toolchain, and what the compiler of native
/// code depends on.
fn key(folder: &Path, shared: &[PathBuf], kind: Kind, processor: Processor) -> Result<String> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    for other in shared {
        collect(other, &mut files)?;
    }
    if kind == Kind::Wasm {
        files.push(folder.join("../toolchain.sh"));
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let name = file.strip_prefix(folder).unwrap_or(&file).to_string_lossy().into_owned();
        let bytes = fs::read(&file).with_context(|| format!("{}", file.display()))?;
        hash.update(format!("{}:{name}:{}:", name.len(), bytes.len()));
        hash.update(bytes);
    }
    if kind == Kind::Wasm {
        // wasmtime's version, the engine's settings, the instruction set.
        let engine = Engine::new(&processor.settings()?)?;
        let compatibility =
            BuildHasherDefault::<DefaultHasher>::default().hash_one(engine.precompile_compatibility_hash());
        hash.update(format!("format {FORMAT} engine {compatibility:016x}"));
    }
    Ok(format!("sha256:{}", hex(&hash.finalize())))
}

/// All files but those that are made by building or say nothing to the machine.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().with_context(|| format!("{:?} is not UTF-8", entry.path()))?;
        if name.starts_with('.') || matches!(name, "target" | "patched" | "README.md") {
            continue;
        }
        match entry.file_type()? {
            kind if kind.is_dir() => collect(&entry.path(), files)?,
            kind if kind.is_file() => files.push(entry.path()),
            _ => bail!("{} is neither a file nor a directory", entry.path().display()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_folder_counts() {
        let images = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = images.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let recipe = |shared: &str| {
            let fields = "name = \"one\"\nkind = \"wasm\"\nlanguage = \"javascript\"\nversion = \"1\"";
            write("one/image.toml", &format!("{fields}\nshared = [{shared}]\n"));
            Recipe::read(&images.path().join("one"), Processor::This)
        };
        write("toolchain.sh", "");
        write("both/prelude.js", "1");
        let before = recipe("\"both\"").unwrap().key;
        assert_eq!(recipe("\"both\"").unwrap().key, before);
        write("both/prelude.js", "2");
        assert_ne!(recipe("\"both\"").unwrap().key, before);
        assert!(recipe("\"../elsewhere\"").is_err());
        assert!(recipe("\"missing\"").is_err());
    }
}
