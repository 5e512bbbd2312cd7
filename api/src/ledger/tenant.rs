//! Tenants and their keys, as they are kept.

use super::read::{json, page, parsed};
use super::write::{Binder, Sql, insert_remembered, sql};
use super::{Ledger, LedgerError, Made, Once, Page, counted};
use crate::price::Picos;
use crate::words::UnknownWord;
use anchorhold_sandbox::{GroupId, Id};
use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use std::fmt;
use std::str::FromStr;

/// Names a tenant. The sandbox knows the same bits as the group that the tenant's cells share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TenantId(pub Id);

/// Names a key. It is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId(pub Id);

impl TenantId {
    /// What the sandbox knows of it.
    pub fn group(self) -> GroupId {
        GroupId(self.0)
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TenantId {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        text.parse().map(Self).map_err(|_| UnknownWord)
    }
}

impl FromStr for KeyId {
    type Err = UnknownWord;
    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        text.parse().map(Self).map_err(|_| UnknownWord)
    }
}

/// What a tenant may have; where it says nothing, the server's default holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quotas {
    /// Live sessions.
    pub sessions: Option<u64>,
    /// Cells of live sessions.
    pub cells: Option<u64>,
    /// Those with a browser.
    pub browsers: Option<u64>,
    /// Executions that wait and run.
    pub concurrent_executions: Option<u64>,
    /// Executions that begin within a second.
    pub executions_per_second: Option<u64>,
    /// The sum of the memory limits of its live sessions.
    pub memory_bytes: Option<u64>,
    /// The sum of the workspace limits of its live sessions.
    pub workspace_bytes: Option<u64>,
    /// Bytes that all that it ever ran may send to the network and get from it.
    pub egress_bytes: Option<u64>,
    /// What everything it ever used may cost.
    pub budget_picos: Option<Picos>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRow {
    /// Its id.
    pub id: TenantId,
    /// For people; unique.
    pub name: String,
    /// It may do nothing.
    pub disabled: bool,
    /// What it may have.
    pub quotas: Quotas,
    /// What everything it ever used cost.
    pub spent_picos: Picos,
    /// What everything it ever ran sent to the network and got from it.
    #[serde(default)]
    pub egress_bytes: u64,
    /// Since when there is one.
    pub created_us: i64,
}

/// A key, without the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Its id.
    pub id: KeyId,
    /// Whose it is.
    pub tenant: TenantId,
    /// For people; unique among those of the tenant that are not revoked.
    pub name: String,
    /// May also administer.
    pub admin: bool,
    /// Since when there is one.
    pub created_us: i64,
    /// Since when it is worth nothing.
    pub revoked_us: Option<i64>,
}

macro_rules! insert_tenant {
    () => {
        "INSERT INTO tenants (id, name, disabled, quotas, spent_picos, created_us) VALUES (?, ?, ?, ?, 0, ?)"
    };
}

static INSERT_TENANT: Sql = sql!(insert_tenant!());
static INSERT_TENANT_ONCE: Sql = sql!(insert_tenant!(), insert_remembered!());
static CHANGE_TENANT: Sql = sql!("UPDATE tenants SET name = ?, disabled = ?, quotas = ? WHERE id = ?");
static INSERT_KEY: Sql =
    sql!("INSERT INTO keys (id, digest, tenant, name, admin, created_us) VALUES (?, ?, ?, ?, 0, ?)");
// The file holds one key: the one that it held before is worth nothing any more.
static SET_ADMIN_KEY: Sql = sql!(
    "DELETE FROM keys WHERE admin = 1 AND digest <> ?1",
    "INSERT OR IGNORE INTO keys (id, digest, tenant, name, admin, created_us) VALUES (?2, ?1, ?3, ?4, 1, ?5)"
);
static REVOKE_KEY: Sql = sql!("UPDATE keys SET revoked_us = coalesce(revoked_us, ?) WHERE id = ?");

impl Ledger {
    /// All tenants, in the order in which they were made.
    pub async fn all_tenants(&self) -> Result<Vec<TenantRow>, LedgerError> {
        let rows = sqlx::query("SELECT * FROM tenants ORDER BY seq").fetch_all(&self.readers).await?;
        rows.iter().map(tenant).collect()
    }

    /// Tenants, newest first.
    pub async fn tenants(&self, before: Option<i64>, limit: u32) -> Result<Page<TenantRow>, LedgerError> {
        let rows = sqlx::query("SELECT * FROM tenants WHERE seq < ? ORDER BY seq DESC LIMIT ?")
            .bind(before.unwrap_or(i64::MAX))
            .bind(i64::from(limit) + 1)
            .fetch_all(&self.readers)
            .await?;
        page(rows, limit, tenant)
    }

    /// A tenant.
    pub async fn tenant(&self, id: TenantId) -> Result<Option<TenantRow>, LedgerError> {
        let row = sqlx::query("SELECT * FROM tenants WHERE id = ?").bind(id.to_string());
        row.fetch_optional(&self.readers).await?.map(|row| tenant(&row)).transpose()
    }

    /// A new tenant; its name must not be taken.
    pub async fn insert_tenant(&self, row: &TenantRow, once: Option<&Once>) -> Result<(), LedgerError> {
        let values = Binder::default()
            .bind(row.id.to_string())
            .bind(row.name.clone())
            .bind(row.disabled)
            .bind(serde_json::to_string(&row.quotas)?)
            .bind(row.created_us);
        match once {
            None => self.writer.write(&INSERT_TENANT, values).await,
            Some(once) => {
                let values = values.made(
                    once,
                    row.id.to_string(),
                    &Made::Tenant(Box::new(row.clone())),
                    row.created_us,
                )?;
                self.writer.write(&INSERT_TENANT_ONCE, values).await
            }
        }
    }

    /// What a tenant is called and may have, from now on.
    pub async fn change_tenant(&self, row: &TenantRow) -> Result<(), LedgerError> {
        let values = Binder::default()
            .bind(row.name.clone())
            .bind(row.disabled)
            .bind(serde_json::to_string(&row.quotas)?)
            .bind(row.id.to_string());
        self.writer.write(&CHANGE_TENANT, values).await
    }

    /// The digests of all keys that hold, with what they are.
    pub async fn all_keys(&self) -> Result<Vec<([u8; 32], KeyRow)>, LedgerError> {
        let rows = sqlx::query("SELECT * FROM keys WHERE revoked_us IS NULL");
        let rows = rows.fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                let digest: Vec<u8> = row.try_get("digest")?;
                Ok((digest.try_into().map_err(|_| LedgerError::Stored("digest"))?, key(row)?))
            })
            .collect()
    }

    /// A tenant's keys, newest first, revoked ones too.
    pub async fn keys(
        &self,
        tenant: TenantId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Page<KeyRow>, LedgerError> {
        let rows = sqlx::query("SELECT * FROM keys WHERE tenant = ? AND seq < ? ORDER BY seq DESC LIMIT ?")
            .bind(tenant.to_string())
            .bind(before.unwrap_or(i64::MAX))
            .bind(i64::from(limit) + 1)
            .fetch_all(&self.readers)
            .await?;
        page(rows, limit, key)
    }

    /// A key of this tenant.
    pub async fn key(&self, tenant: TenantId, id: KeyId) -> Result<Option<KeyRow>, LedgerError> {
        let row = sqlx::query("SELECT * FROM keys WHERE id = ? AND tenant = ?")
            .bind(id.to_string())
            .bind(tenant.to_string());
        row.fetch_optional(&self.readers).await?.map(|row| key(&row)).transpose()
    }

    /// A new key; its name must not be taken.
    pub async fn insert_key(&self, digest: [u8; 32], row: &KeyRow) -> Result<(), LedgerError> {
        let values = Binder::default()
            .bind(row.id.to_string())
            .bind(digest.to_vec())
            .bind(row.tenant.to_string())
            .bind(row.name.clone())
            .bind(row.created_us);
        self.writer.write(&INSERT_KEY, values).await
    }

    /// This is the key that may administer from now on, unless it is already.
    pub async fn set_admin_key(&self, digest: [u8; 32], row: &KeyRow) -> Result<(), LedgerError> {
        let values = Binder::default()
            .bind(digest.to_vec())
            .bind(row.id.to_string())
            .bind(row.tenant.to_string())
            .bind(row.name.clone())
            .bind(row.created_us);
        self.writer.write(&SET_ADMIN_KEY, values).await
    }

    /// The key is worth nothing from now on.
    pub async fn revoke_key(&self, id: KeyId, now_us: i64) -> Result<(), LedgerError> {
        self.writer.write(&REVOKE_KEY, Binder::default().bind(now_us).bind(id.to_string())).await
    }
}

fn tenant(row: &SqliteRow) -> Result<TenantRow, LedgerError> {
    Ok(TenantRow {
        id: parsed(row, "id")?,
        name: row.try_get("name")?,
        disabled: row.try_get("disabled")?,
        quotas: json(row, "quotas")?.ok_or(LedgerError::Stored("quotas"))?,
        spent_picos: row.try_get("spent_picos")?,
        egress_bytes: counted(row.try_get("egress_bytes")?),
        created_us: row.try_get("created_us")?,
    })
}

fn key(row: &SqliteRow) -> Result<KeyRow, LedgerError> {
    Ok(KeyRow {
        id: parsed(row, "id")?,
        tenant: parsed(row, "tenant")?,
        name: row.try_get("name")?,
        admin: row.try_get("admin")?,
        created_us: row.try_get("created_us")?,
        revoked_us: row.try_get("revoked_us")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LedgerSync;
    use sqlx::{ConnectOptions as _, Connection as _, Executor as _};

    const BEFORE: &str = "
        INSERT INTO sessions (id, tenant, status, created_us, expires_us, expires_boot_us, boot_id, used, metadata, terms)
        VALUES ('s', 'default', 'closed', 1, 2, 3, 'boot', 0, '{}', '{}');
        INSERT INTO remembered (tenant, route, key, hash, subject, created_us) VALUES ('default', 'run', 'k', x'00', 's', 1);
        INSERT INTO keys (digest, tenant, name, created_us) VALUES (x'00', 'default', 'admin', 1);
        INSERT INTO records (id, tenant, session_id, kind, from_us, to_us, wall_us, cpu_us, memory_mib_ms, bytes,
                             price_version, cost_picos, estimated)
        VALUES ('r1', 'default', 's', 'standing', 1, 2, 0, 1, 0, 0, 'v', 30, 0),
               ('r2', 'default', 's', 'standing', 1, 2, 0, 1, 0, 0, 'v', 12, 0);";

    /// A ledger as the version with one tenant left it.
    async fn ledger_of_one_tenant(dir: &std::path::Path, more: &'static str) -> Ledger {
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(dir.join("ledger.sqlite"))
            .create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        crate::ledger::schema::migrator().run_to(1, &mut connection).await.unwrap();
        connection.execute(BEFORE).await.unwrap();
        connection.execute(more).await.unwrap();
        connection.close().await.unwrap();
        Ledger::open(dir, LedgerSync::Process).await.unwrap()
    }

    #[tokio::test]
    async fn what_was_of_the_only_tenant_stays_its_own() {
        const GROUP: &str = "7zzzzzzzzzzzzzzzzzzzzzzzzz";
        for (more, id) in [
            ("INSERT INTO meta VALUES ('group.default', '7zzzzzzzzzzzzzzzzzzzzzzzzz')", Some(GROUP)),
            ("SELECT 1", None),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let ledger = ledger_of_one_tenant(dir.path(), more).await;
            let tenants = ledger.all_tenants().await.unwrap();
            assert_eq!(tenants.len(), 1);
            let tenant = &tenants[0];
            assert_eq!((tenant.name.as_str(), tenant.spent_picos, tenant.disabled), ("default", 42, false));
            assert!(id.is_none_or(|id| tenant.id.to_string() == id), "live cells keep their group");
            for table in ["sessions", "records", "remembered"] {
                let sql = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table} WHERE tenant = ?"));
                let row = sqlx::query(sql).bind(tenant.id.to_string()).fetch_one(&ledger.readers).await;
                assert!(row.unwrap().get::<i64, _>(0) > 0, "{table}");
            }
            assert!(ledger.all_keys().await.unwrap().is_empty());
            ledger.close().await;
        }
    }

    #[tokio::test]
    async fn names_and_digests_are_unique_and_a_revoked_key_is_kept_without_holding() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path(), LedgerSync::Process).await.unwrap();
        let quotas = Quotas { sessions: Some(3), budget_picos: Some(7), ..Quotas::default() };
        let mut row = TenantRow {
            id: TenantId(Id::random()),
            name: "a".into(),
            disabled: false,
            quotas,
            spent_picos: 0,
            egress_bytes: 0,
            created_us: 5,
        };
        ledger.insert_tenant(&row, None).await.unwrap();
        assert_eq!(ledger.tenant(row.id).await.unwrap().as_ref(), Some(&row));
        let twin = TenantRow { id: TenantId(Id::random()), ..row.clone() };
        assert!(matches!(ledger.insert_tenant(&twin, None).await, Err(LedgerError::Database(_))));
        (row.disabled, row.quotas) = (true, Quotas::default());
        ledger.change_tenant(&row).await.unwrap();
        let page = ledger.tenants(None, 1).await.unwrap();
        assert_eq!((&page.items[0], page.next.is_some()), (&row, true));

        let key = KeyRow {
            id: KeyId(Id::random()),
            tenant: row.id,
            name: "k".into(),
            admin: false,
            created_us: 6,
            revoked_us: None,
        };
        ledger.insert_key([1; 32], &key).await.unwrap();
        let again = KeyRow { id: KeyId(Id::random()), ..key.clone() };
        assert!(ledger.insert_key([2; 32], &again).await.is_err(), "the name is taken");
        ledger.revoke_key(key.id, 8).await.unwrap();
        ledger.revoke_key(key.id, 9).await.unwrap();
        assert!(ledger.insert_key([1; 32], &again).await.is_err(), "the digest is known");
        ledger.insert_key([2; 32], &again).await.unwrap();
        assert_eq!(ledger.all_keys().await.unwrap(), [([2; 32], again.clone())]);
        let kept = ledger.keys(row.id, None, 9).await.unwrap().items;
        assert_eq!(kept, [again, KeyRow { revoked_us: Some(8), ..key.clone() }]);
        assert_eq!(ledger.key(twin.id, key.id).await.unwrap(), None);
        ledger.close().await;
    }
}
