//! Administration: tenants, their quotas and their keys. Only who shows that it may administer gets here.
//!
//! A change is in the ledger first, then in what requests are checked against: it holds from the next request on.

use super::once::{Answer, Await, Key};
use super::{Refusal, Service, now_us};
use crate::ledger::{KeyId, KeyRow, Made, Once, Page, Quotas, TenantId, TenantRow};
use crate::tenant::{Account, Admin, NewKey, Tenant, digest, new_key};
use crate::words::CloseReason;
use anchorhold_sandbox::Id;

/// A tenant to be made.
#[derive(Debug, Clone)]
pub struct NewTenant {
    /// For people; not taken yet.
    pub name: String,
    /// What it may have.
    pub quotas: Quotas,
}

/// What of a tenant is to be changed.
#[derive(Debug, Clone, Default)]
pub struct TenantChange {
    /// What it is called.
    pub name: Option<String>,
    /// Whether it may do nothing.
    pub disabled: Option<bool>,
    /// All of what it may have.
    pub quotas: Option<Quotas>,
}

impl Service {
    /// Who shows this key; `None`: nobody does.
    pub fn authenticate(&self, key: &str) -> Option<Tenant> {
        self.0.tenants.authenticate(key)
    }

    /// Whether a caller may go on now.
    pub fn enter(&self, tenant: &Tenant) -> Result<(), Refusal> {
        Ok(self.0.tenants.enter(tenant)?)
    }

    /// A new tenant, without an API key.
    pub async fn create_tenant(
        &self,
        admin: &Admin,
        new: NewTenant,
        key: Option<Key>,
    ) -> Result<TenantRow, Refusal> {
        let service = self.clone();
        let once = key.map(|key| key.of(&admin.tenant().to_string(), "tenants"));
        let answer = self.at_most_once(once.clone(), Await::End, async move {
            Ok(Answer::Made(Made::Tenant(Box::new(service.make_tenant(new, once).await?))))
        });
        match answer.await? {
            Answer::Made(Made::Tenant(row)) => Ok(*row),
            _ => Err(Refusal::Internal),
        }
    }

    async fn make_tenant(&self, new: NewTenant, once: Option<Once>) -> Result<TenantRow, Refusal> {
        let _one_change_at_a_time = self.0.administration.lock().await;
        self.name_is_free(&new.name)?;
        let row = TenantRow {
            id: TenantId(Id::random()),
            name: new.name,
            disabled: false,
            quotas: new.quotas,
            spent_picos: 0,
            egress_bytes: 0,
            created_us: now_us(),
        };
        self.0.ledger.insert_tenant(&row, once.as_ref()).await?;
        self.0.tenants.insert(&row);
        Ok(row)
    }

    /// Tenants, newest first.
    pub async fn tenants(
        &self,
        _: &Admin,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Page<TenantRow>, Refusal> {
        Ok(self.0.ledger.tenants(before, limit).await?)
    }

    /// A tenant.
    pub async fn tenant(&self, _: &Admin, id: TenantId) -> Result<TenantRow, Refusal> {
        self.0.ledger.tenant(id).await?.ok_or(Refusal::TenantNotFound)
    }

    /// Changes a tenant. One that is disabled loses its live sessions; what it used is recorded as ever.
    pub async fn change_tenant(
        &self,
        admin: &Admin,
        id: TenantId,
        change: TenantChange,
    ) -> Result<TenantRow, Refusal> {
        let _one_change_at_a_time = self.0.administration.lock().await;
        let mut row = self.tenant(admin, id).await?;
        if let Some(name) = change.name.filter(|name| *name != row.name) {
            self.name_is_free(&name)?;
            if self.0.tenants.administers(id) {
                return Err(Refusal::Conflict("the tenant that administers keeps its name"));
            }
            row.name = name;
        }
        row.disabled = change.disabled.unwrap_or(row.disabled);
        row.quotas = change.quotas.unwrap_or(row.quotas);
        if row.disabled && self.0.tenants.administers(id) {
            return Err(Refusal::Conflict("the tenant that administers cannot be disabled"));
        }
        self.0.ledger.change_tenant(&row).await?;
        self.0.tenants.insert(&row);
        if row.disabled {
            for live in self.0.live.all().iter().filter(|live| live.account.id() == id) {
                self.begin_close(live, CloseReason::Disabled);
            }
        }
        Ok(row)
    }

    /// A new key of a tenant. What is answered here is never to be had again.
    pub async fn create_key(&self, admin: &Admin, tenant: TenantId, name: String) -> Result<NewKey, Refusal> {
        let _one_change_at_a_time = self.0.administration.lock().await;
        self.tenant(admin, tenant).await?;
        if self.0.tenants.has_key(tenant, &name) {
            return Err(Refusal::Conflict("the tenant has a key of this name"));
        }
        let secret = new_key().map_err(|error| {
            tracing::error!(%error, "no random numbers for a key");
            Refusal::Internal
        })?;
        let row = KeyRow {
            id: KeyId(Id::random()),
            tenant,
            name,
            admin: false,
            created_us: now_us(),
            revoked_us: None,
        };
        let digest = digest(secret.reveal());
        self.0.ledger.insert_key(digest, &row).await?;
        self.0.tenants.insert_key(digest, &row);
        Ok(NewKey { row, secret })
    }

    /// The keys of a tenant, newest first, revoked ones too.
    pub async fn keys(
        &self,
        admin: &Admin,
        tenant: TenantId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Page<KeyRow>, Refusal> {
        self.tenant(admin, tenant).await?;
        Ok(self.0.ledger.keys(tenant, before, limit).await?)
    }

    /// Makes a key worthless. Again: the same.
    pub async fn revoke_key(&self, admin: &Admin, tenant: TenantId, id: KeyId) -> Result<KeyRow, Refusal> {
        let _one_change_at_a_time = self.0.administration.lock().await;
        self.tenant(admin, tenant).await?;
        let row = self.0.ledger.key(tenant, id).await?.ok_or(Refusal::KeyNotFound)?;
        if row.admin {
            return Err(Refusal::Conflict("the key that administers is replaced in its file"));
        }
        self.0.ledger.revoke_key(id, now_us()).await?;
        self.0.tenants.remove_key(id);
        self.0.ledger.key(tenant, id).await?.ok_or(Refusal::KeyNotFound)
    }

    fn name_is_free(&self, name: &str) -> Result<(), Refusal> {
        match self.0.tenants.named(name) {
            None => Ok(()),
            Some(_) => Err(Refusal::Conflict("another tenant has this name")),
        }
    }

    /// A record was written: what the tenant spent is read again, if there is an end to it.
    pub(super) async fn note_spent(&self, account: &Account) {
        if !account.has_budget() {
            return;
        }
        match self.0.ledger.tenant(account.id()).await {
            Ok(Some(row)) => account.note_spent(&row),
            Ok(None) => tracing::error!(tenant = %account.id(), "a tenant is gone"),
            Err(error) => tracing::warn!(%error, "what a tenant spent could not be read"),
        }
    }
}
