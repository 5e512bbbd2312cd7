//! Who may ask: keys and the tenants behind them.
//!
//! A [`Tenant`] is a proof: only [`Keys::authenticate`] makes one for a caller.

use crate::config::Secret;
use crate::ledger::{Ledger, LedgerError};
use anchorhold_sandbox::GroupId;
use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

/// Whose the key in the file is.
const DEFAULT: &str = "default";
/// The name of the key in the file.
const ADMIN: &str = "admin";
/// No key is longer.
const KEY_BYTES_MAX: usize = 512;

/// Somebody who showed a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    name: Arc<str>,
    group: GroupId,
}

impl Tenant {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the sandbox knows of it.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// For tests of what comes after the proof.
    #[cfg(test)]
    pub fn for_test(name: &str) -> Self {
        Self { name: name.into(), group: GroupId::random() }
    }
}

/// All keys, as digests.
#[derive(Debug)]
pub struct Keys {
    digests: Vec<([u8; 32], Tenant)>,
}

impl Keys {
    /// The keys of the ledger, the one in the file (which replaces an earlier one in that file) and the one for
    /// development, which is not stored.
    pub async fn load(
        ledger: &Ledger,
        admin: &Secret,
        development: Option<&Secret>,
        now_us: i64,
    ) -> Result<Self, LedgerError> {
        ledger.set_key(digest(admin.reveal()), DEFAULT, ADMIN, now_us).await?;
        let mut keys = Self { digests: Vec::new() };
        for (digest, name) in ledger.keys().await? {
            keys.digests.push((digest, tenant(ledger, &name).await?));
        }
        if let Some(key) = development {
            keys.digests.push((digest(key.reveal()), tenant(ledger, DEFAULT).await?));
        }
        Ok(keys)
    }

    /// The tenant of this key. Takes the same time whether the key is known or not, and however much of it is right.
    pub fn authenticate(&self, key: &str) -> Option<Tenant> {
        if key.len() > KEY_BYTES_MAX {
            return None;
        }
        let shown = digest(key);
        let mut found = None;
        for (digest, tenant) in &self.digests {
            if bool::from(digest.ct_eq(&shown)) {
                found = Some(tenant);
            }
        }
        found.cloned()
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

async fn tenant(ledger: &Ledger, name: &str) -> Result<Tenant, LedgerError> {
    Ok(Tenant { name: name.into(), group: group(ledger, name).await? })
}

/// What the sandbox knows of the tenant of that name: made once, then the same for ever.
pub async fn group(ledger: &Ledger, name: &str) -> Result<GroupId, LedgerError> {
    let meta = format!("group.{name}");
    if let Some(text) = ledger.meta(&meta).await? {
        return text.parse().map_err(|_| LedgerError::Stored("group"));
    }
    let group = GroupId::random();
    ledger.set_meta(&meta, &group.to_string()).await?;
    Ok(group)
}

/// The key in this file; a new file with a new key where there is none.
pub fn admin_key(path: &Path) -> io::Result<Secret> {
    match std::fs::File::open(path) {
        Ok(file) => {
            let mut text = String::new();
            file.take(KEY_BYTES_MAX as u64).read_to_string(&mut text)?;
            let key = text.trim();
            if key.len() < 16 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "holds no key of at least 16 characters",
                ));
            }
            Ok(key.to_owned().into())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = new_key()?;
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            writeln!(file, "{key}")?;
            file.sync_all()?;
            Ok(key.into())
        }
        Err(error) => Err(error),
    }
}

/// 256 random bits.
fn new_key() -> io::Result<String> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("ah_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LedgerSync;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_file_is_made_once_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.key");
        let key = admin_key(&path).unwrap();
        assert_eq!(admin_key(&path).unwrap().reveal(), key.reveal());
        assert_eq!(key.reveal().len(), 3 + 43);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn only_known_keys_make_tenants_and_a_new_file_revokes_the_old_key() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path(), LedgerSync::Process).await.unwrap();
        let (old, new) = ("a".repeat(20), "b".repeat(20));
        let keys = Keys::load(&ledger, &old.clone().into(), None, 0).await.unwrap();
        let tenant = keys.authenticate(&old).unwrap();
        assert_eq!(tenant.name(), "default");
        for wrong in ["", "a", &"a".repeat(19), &"a".repeat(21), &"a".repeat(100_000)] {
            assert_eq!(keys.authenticate(wrong), None);
        }
        let development = "c".repeat(20).into();
        let keys = Keys::load(&ledger, &new.clone().into(), Some(&development), 0).await.unwrap();
        assert_eq!(keys.authenticate(&old), None);
        assert_eq!(keys.authenticate(&new), Some(tenant.clone()));
        assert_eq!(keys.authenticate(development.reveal()), Some(tenant));
        ledger.close().await;
    }
}
