//! `anchorhold image`

use super::show::{Table, show};
use anchorhold_jail::warden::images;
use serde_json::json;
use std::path::Path;

/// Shows the images of a store, after the same checks as the warden's: owner and content.
pub fn list(store: &Path, as_json: bool) -> anyhow::Result<()> {
    let found = images::open_all(store)?;
    let images = found.iter().map(|open| {
        let image = &open.image;
        json!({ "name": image.name, "language": image.language, "digest": format!("sha256:{}", image.digest) })
    });
    show(as_json, &images.collect(), || {
        let mut table = Table::new(&["NAME", "LANGUAGE", "DIGEST"]);
        for open in &found {
            let image = &open.image;
            table.line([image.name.clone(), image.language.clone(), format!("sha256:{}", image.digest)]);
        }
        table
    })
}
