//! Images that are a directory: built by a script, listed, named by the digest of the list.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{
    build::{run_script, step},
    recipe::Recipe,
    store::{Manifest, Store, hex},
};

pub fn build(recipe: &Recipe, store: &Store) -> Result<()> {
    let directory = store.new_tree()?;
    let tree = directory.path().join("tree");
    step(recipe, "make the tree", || run_script(recipe, &tree))?;
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o755))?;
    let (list, size_bytes) = step(recipe, "list its files", || list(&tree))?;
    let digest = store.add_tree(&tree, &list)?;
    eprintln!(
        "{}: {} files, {:.0} MiB",
        recipe.name,
        list.lines().count(),
        size_bytes as f64 / f64::from(1 << 20)
    );
    store.publish(&Manifest {
        name: recipe.name.clone(),
        kind: recipe.kind,
        digest,
        recipe: recipe.key.clone(),
        size_bytes,
        language: recipe.language,
        version: recipe.version.clone(),
        built_with: format!("anchorhold-image {}", env!("CARGO_PKG_VERSION")),
    })
}

/// One line for each file, in the order of their names: `hash name<tab>mode size`. The hash is of a regular file's
/// content or a link's target. Also the size of all of them. The warden reads such a list; see its `images.rs`.
fn list(tree: &Path) -> Result<(String, u64)> {
    let (mut lines, mut size_bytes, mut folders) = (Vec::new(), 0, vec![tree.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            let name = path.strip_prefix(tree)?.to_str().with_context(|| format!("{path:?} is not UTF-8"))?;
            if name.contains(['\n', '\t']) {
                bail!("{name:?} cannot be listed");
            }
            let (content, size) = if metadata.is_file() {
                (fs::read(&path)?, metadata.len())
            } else if metadata.is_symlink() {
                (fs::read_link(&path)?.into_os_string().into_encoded_bytes(), 0)
            } else if metadata.is_dir() {
                folders.push(path.clone());
                (Vec::new(), 0)
            } else {
                bail!("{name} is neither file, link nor directory");
            };
            size_bytes += size;
            lines.push(format!("{name}\t{} {:o} {size}\n", hex(&Sha256::digest(content)), metadata.mode()));
        }
    }
    lines.sort();
    Ok((lines.concat(), size_bytes))
}
