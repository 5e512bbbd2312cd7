//! Which package may know which.

use crate::Shared;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::process::Command;

tests!(dependencies_run_one_way, the_load_scripts_know_every_dependency, the_jail_is_small);

/// Every package that `name` needs to be built, by cargo's own account.
fn needs(name: &str) -> Result<BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let folder = env!("CARGO_MANIFEST_DIR");
    let output = Command::new(cargo)
        .current_dir(folder)
        .args(["tree", "--offline", "-p", name, "-e", "normal", "--prefix", "none", "--format", "{p}"])
        .output()?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| Ok(line.split(' ').next().context("a name")?.to_owned())).collect()
}

fn dependencies_run_one_way(_: &Shared) -> Result<()> {
    let forbidden: &[(&str, &[&str])] = &[
        (
            "anchorhold-jail",
            &["anchorhold-sandbox", "anchorhold", "anchorhold-cell", "tokio", "wasmtime", "axum", "sqlx"],
        ),
        (
            "anchorhold-cell",
            &[
                "anchorhold-sandbox",
                "anchorhold",
                "axum",
                "sqlx",
                "cranelift-codegen",
                "wasmtime-internal-cranelift",
            ],
        ),
        ("anchorhold-sandbox", &["anchorhold", "anchorhold-cell", "axum", "hyper", "sqlx", "wasmtime"]),
        (
            "anchorhold-browser",
            &[
                "anchorhold-jail",
                "anchorhold-sandbox",
                "anchorhold-cell",
                "anchorhold",
                "axum",
                "hyper",
                "sqlx",
            ],
        ),
        // Archives are opened inside a cell only.
        ("anchorhold", &["anchorhold-cell", "wasmtime", "tar", "zip", "flate2", "zstd"]),
        // What faces the network knows nothing of sessions, keys or cells; and one cryptography is enough.
        (
            "anchorhold-egress",
            &[
                "anchorhold",
                "anchorhold-sandbox",
                "anchorhold-jail",
                "anchorhold-cell",
                "axum",
                "sqlx",
                "ring",
            ],
        ),
    ];
    for (package, others) in forbidden {
        let needed = needs(package)?;
        let found: Vec<_> = others.iter().filter(|other| needed.contains(**other)).collect();
        assert!(found.is_empty(), "{package} needs {found:?}");
    }
    assert!(needs("anchorhold")?.contains("anchorhold-sandbox"));
    Ok(())
}

/// The load scripts are a package of their own, with a lock file that nothing else reads: one that lacks what they need by
/// way of ours would be seen only by who puts load on a server.
fn the_load_scripts_know_every_dependency(_: &Shared) -> Result<()> {
    let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/load/Cargo.lock");
    let lock = std::fs::read_to_string(lock)?;
    let known: BTreeSet<&str> = lock.lines().filter_map(|line| line.strip_prefix("name = ")).collect();
    let mut needed = needs("anchorhold-tests")?;
    needed.retain(|name| !known.contains(format!("{name:?}").as_str()));
    assert!(needed.is_empty(), "tests/load/Cargo.lock lacks {needed:?}");
    Ok(())
}

/// `unsafe` has one home, and one reasoned place for loading modules.
fn the_jail_is_small(_: &Shared) -> Result<()> {
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for folder in ["api/src", "browser/src", "api/egress/src", "sandbox/src"] {
        let mut stack = vec![top.join(folder)];
        while let Some(path) = stack.pop() {
            if path.is_dir() {
                stack.extend(std::fs::read_dir(&path)?.flatten().map(|e| e.path()));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path)?;
                assert!(!text.contains("unsafe {"), "{} has an unsafe block", path.display());
            }
        }
    }
    Ok(())
}
