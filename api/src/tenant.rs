//! Who may ask: tenants, their keys, and what each may have.
//!
//! A [`Tenant`] is a proof: only [`Tenants::authenticate`] makes one for a caller. An [`Admin`] is another: the caller
//! showed the key in the file (or the one for development), which alone may administer.

mod account;
mod rate;

pub use account::{Account, Denied, ExecutionClaim, Quota, SessionClaim};
pub use rate::Bucket;

use crate::config::{Secret, TenantPolicy};
use crate::ledger::{KeyId, KeyRow, Ledger, LedgerError, TenantId, TenantRow};
use anchorhold_sandbox::{Boottime, GroupId, Id};
use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

/// Whose the key in the file is.
const DEFAULT: &str = "default";
/// The name of the key in the file.
const ADMIN: &str = "admin.key";
/// The name of the key for development.
const DEVELOPMENT: &str = "development";
/// No key is longer.
const KEY_BYTES_MAX: usize = 512;
/// How many refusals of a key are told at once, within a second.
const REFUSALS_PER_SECOND: u64 = 20;

/// Somebody who showed a key.
#[derive(Debug, Clone)]
pub struct Tenant {
    account: Arc<Account>,
    key: Arc<HeldKey>,
}

/// A key that holds.
#[derive(Debug)]
struct HeldKey {
    id: KeyId,
    name: String,
    admin: bool,
    asked: Bucket,
    refused: Bucket,
}

impl HeldKey {
    fn new(id: KeyId, name: String, admin: bool) -> Self {
        Self { id, name, admin, asked: Bucket::default(), refused: Bucket::default() }
    }
}

impl Tenant {
    /// Its id, as the ledger knows it.
    pub fn id(&self) -> &str {
        self.account.id_text()
    }

    /// What the sandbox knows of it.
    pub fn group(&self) -> GroupId {
        self.account.id().group()
    }

    /// What it has in use.
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// The key that was shown.
    pub fn key(&self) -> KeyId {
        self.key.id
    }

    /// Whether a refusal because of a quota or a rate is told at once, or only after a while: who asks again in spite of
    /// it, and again, would else take from others the time that refusals take.
    pub fn is_told_at_once(&self) -> bool {
        self.key.refused.take(REFUSALS_PER_SECOND, Boottime::now().0)
    }

    /// The same caller as somebody who may administer, if it may.
    pub fn admin(&self) -> Option<Admin> {
        self.key.admin.then(|| Admin(self.account.id()))
    }

    /// Another tenant, for tests of what comes after the proof.
    #[cfg(test)]
    pub fn for_test() -> Self {
        let row = TenantRow {
            id: TenantId(Id::random()),
            name: "stranger".into(),
            disabled: false,
            quotas: crate::ledger::Quotas::default(),
            spent_picos: 0,
            egress_bytes: 0,
            created_us: 0,
        };
        let policy = TenantPolicy {
            sessions: 1,
            requests_per_second: 1000,
            executions_per_second: 1000,
            output_bytes_per_second: 1 << 20,
        };
        let key = HeldKey::new(KeyId(Id::random()), "k".into(), false);
        Self { account: Arc::new(Account::new(&row, policy)), key: Arc::new(key) }
    }
}

/// Somebody who may administer, of this tenant.
#[derive(Debug)]
pub struct Admin(TenantId);

impl Admin {
    /// The tenant whose key showed it.
    pub fn tenant(&self) -> TenantId {
        self.0
    }
}

/// A key that was just made: the only time that it can be seen.
#[derive(Debug)]
pub struct NewKey {
    /// What is known of it afterwards.
    pub row: KeyRow,
    /// The key.
    pub secret: Secret,
}

/// All tenants and all keys that hold, as digests. The ledger has the same; whoever changes one changes both.
#[derive(Debug)]
pub struct Tenants {
    policy: TenantPolicy,
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// By digest. How long a look takes says something about digests, of which no key can be made.
    keys: HashMap<[u8; 32], Tenant>,
    accounts: HashMap<String, Arc<Account>>,
    /// Names that are taken.
    names: HashMap<String, TenantId>,
}

impl Tenants {
    /// Those of the ledger, with the key in the file (which replaces an earlier one in that file) and the one for
    /// development, which is not stored.
    pub async fn load(
        ledger: &Ledger,
        policy: TenantPolicy,
        admin: &Secret,
        development: Option<&Secret>,
        now_us: i64,
    ) -> Result<Self, LedgerError> {
        let tenants = Self { policy, table: RwLock::default() };
        for row in ledger.all_tenants().await? {
            tenants.insert(&row);
        }
        let default = tenants.named(DEFAULT).ok_or(LedgerError::Stored("tenant"))?;
        let row = |name: &str| KeyRow {
            id: KeyId(Id::random()),
            tenant: default,
            name: name.to_owned(),
            admin: true,
            created_us: now_us,
            revoked_us: None,
        };
        ledger.set_admin_key(digest(admin.reveal()), &row(ADMIN)).await?;
        for (digest, row) in ledger.all_keys().await? {
            tenants.insert_key(digest, &row);
        }
        if let Some(key) = development {
            tenants.insert_key(digest(key.reveal()), &row(DEVELOPMENT));
        }
        Ok(tenants)
    }

    /// The tenant of this key. A digest is looked up, so how much of a wrong key is right makes no difference.
    pub fn authenticate(&self, key: &str) -> Option<Tenant> {
        if key.len() > KEY_BYTES_MAX {
            return None;
        }
        let shown = digest(key);
        self.read(|table| table.keys.get(&shown).cloned())
    }

    /// Whether a caller may go on now: its tenant is not disabled, and this key does not ask too often.
    pub fn enter(&self, tenant: &Tenant) -> Result<(), Denied> {
        tenant.account.enabled()?;
        if tenant.key.asked.take(self.policy.requests_per_second, Boottime::now().0) {
            Ok(())
        } else {
            Err(Denied::TooFast)
        }
    }

    /// The account of the tenant that the ledger knows by this id.
    pub fn account(&self, id: &str) -> Option<Arc<Account>> {
        self.read(|table| table.accounts.get(id).cloned())
    }

    /// The tenant of this name.
    pub fn named(&self, name: &str) -> Option<TenantId> {
        self.read(|table| table.names.get(name).copied())
    }

    /// Whether a key of this tenant holds that is called so.
    pub fn has_key(&self, tenant: TenantId, name: &str) -> bool {
        self.read(|table| {
            table.keys.values().any(|held| held.account.id() == tenant && held.key.name == name)
        })
    }

    /// Whether this tenant has a key that may administer.
    pub fn administers(&self, tenant: TenantId) -> bool {
        self.read(|table| table.keys.values().any(|held| held.account.id() == tenant && held.key.admin))
    }

    /// There is this tenant now, or it is called and may have what the row says.
    pub fn insert(&self, row: &TenantRow) {
        self.write(|table| {
            table.names.retain(|_, id| *id != row.id);
            table.names.insert(row.name.clone(), row.id);
            match table.accounts.get(&row.id.to_string()) {
                Some(account) => account.apply(row),
                None => {
                    let account = Arc::new(Account::new(row, self.policy));
                    table.accounts.insert(row.id.to_string(), account);
                }
            }
        });
    }

    /// This key holds from now on.
    pub fn insert_key(&self, digest: [u8; 32], row: &KeyRow) {
        self.write(|table| {
            let Some(account) = table.accounts.get(&row.tenant.to_string()).cloned() else { return };
            let key = Arc::new(HeldKey::new(row.id, row.name.clone(), row.admin));
            table.keys.insert(digest, Tenant { account, key });
        });
    }

    /// This key does not hold any more.
    pub fn remove_key(&self, id: KeyId) {
        self.write(|table| table.keys.retain(|_, held| held.key.id != id));
    }

    fn read<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        look(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, change: impl FnOnce(&mut Table)) {
        change(&mut self.table.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// All that is ever stored of a key.
pub fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
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
            writeln!(file, "{}", key.reveal())?;
            file.sync_all()?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

/// 256 random bits.
pub fn new_key() -> io::Result<Secret> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("ah_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LedgerSync;
    use std::os::unix::fs::PermissionsExt as _;

    const POLICY: TenantPolicy = TenantPolicy {
        sessions: 10,
        requests_per_second: 3,
        executions_per_second: 1000,
        output_bytes_per_second: 1 << 20,
    };

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
        let load = async |key: &str, development| {
            Tenants::load(&ledger, POLICY, &key.to_owned().into(), development, 0).await.unwrap()
        };
        let tenants = load(&old, None).await;
        let tenant = tenants.authenticate(&old).unwrap();
        assert!(tenant.admin().is_some());
        assert_eq!(tenants.named("default").unwrap().to_string(), tenant.id());
        for wrong in ["", "a", &"a".repeat(19), &"a".repeat(21), &"a".repeat(100_000)] {
            assert!(tenants.authenticate(wrong).is_none());
        }
        let development = "c".repeat(20).into();
        let tenants = load(&new, Some(&development)).await;
        assert!(tenants.authenticate(&old).is_none());
        for key in [&new, development.reveal()] {
            assert_eq!(tenants.authenticate(key).unwrap().id(), tenant.id());
        }
        // The same key in the same file keeps its id.
        let id = tenants.authenticate(&new).unwrap().key();
        assert_eq!(load(&new, None).await.authenticate(&new).unwrap().key(), id);
        ledger.close().await;
    }

    #[tokio::test]
    async fn a_key_that_asks_too_often_does_not_hold_up_another() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path(), LedgerSync::Process).await.unwrap();
        let (fast, slow): (Secret, Secret) = ("a".repeat(20).into(), "b".repeat(20).into());
        let tenants = Tenants::load(&ledger, POLICY, &fast, Some(&slow), 0).await.unwrap();
        let [fast, slow] = [fast, slow].map(|key| tenants.authenticate(key.reveal()).unwrap());
        let entered = (0..100).filter(|_| tenants.enter(&fast).is_ok()).count();
        assert!((3..=4).contains(&entered), "{entered}");
        assert_eq!(tenants.enter(&slow), Ok(()));
        ledger.close().await;
    }
}
