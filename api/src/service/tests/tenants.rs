//! Tenants: what one may not do to another, and that nobody has more than it may.

use super::*;
use crate::ledger::{Quotas, TenantRow};
use crate::tenant::Admin;
use futures_util::future::join_all;

impl Life {
    fn admin(&self) -> Admin {
        self.tenant.admin().unwrap()
    }

    /// A tenant with these quotas, somebody with a key of it, and the key.
    fn tenant_with(&self, name: &str, quotas: Quotas) -> (TenantRow, Tenant, String) {
        let new = NewTenant { name: name.into(), quotas };
        let row = self.block_on(self.service.create_tenant(&self.admin(), new, None)).unwrap();
        let key = self.block_on(self.service.create_key(&self.admin(), row.id, "k".into())).unwrap();
        let secret = key.secret.reveal().to_owned();
        (row, self.service.authenticate(&secret).unwrap(), secret)
    }

    fn change(&self, tenant: &TenantRow, change: TenantChange) -> Result<TenantRow, Refusal> {
        self.block_on(self.service.change_tenant(&self.admin(), tenant.id, change))
    }

    fn create(&self, tenant: &Tenant) -> Result<SessionId, Refusal> {
        let row = self.block_on(self.service.create_session(tenant, SessionRequest::default(), None))?;
        Ok(row.id)
    }

    fn execute_as(&self, tenant: &Tenant, session: SessionId, code: &str) -> Result<(), Refusal> {
        self.block_on(self.service.execute(tenant, session, program(code), None, Await::End)).map(drop)
    }
}

fn used_up(quota: Quota, most: u64) -> Refusal {
    Refusal::Denied(Denied::Quota(quota, most))
}

/// security.md 40.
#[test]
fn a_hundred_creates_at_once_give_exactly_the_quota() {
    let house = House::new();
    let life = house.start();
    let (_, tenant, _) = life.tenant_with("t", Quotas { sessions: Some(10), ..Quotas::default() });
    let tasks: Vec<_> = (0..100)
        .map(|_| {
            let (service, tenant) = (life.service.clone(), tenant.clone());
            life.spawn(async move { service.create_session(&tenant, SessionRequest::default(), None).await })
        })
        .collect();
    let outcomes: Vec<_> = tasks.into_iter().map(|task| life.block_on(task).unwrap()).collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 10);
    for refusal in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert_eq!(*refusal, used_up(Quota::Sessions, 10));
    }
    // Another tenant has its own, and what ends makes room.
    life.session();
    let first = outcomes.iter().find_map(|outcome| outcome.as_ref().ok()).unwrap().id;
    life.block_on(life.service.delete_session(&tenant, first)).unwrap();
    life.create(&tenant).unwrap();
    assert_eq!(life.create(&tenant), Err(used_up(Quota::Sessions, 10)));
    life.drain();
}

#[test]
fn executions_that_run_and_begin_have_a_quota() {
    let house = House::new();
    let life = house.start();
    let quotas =
        Quotas { concurrent_executions: Some(2), executions_per_second: Some(3), ..Quotas::default() };
    let (row, tenant, _) = life.tenant_with("t", quotas);
    let session = life.create(&tenant).unwrap();
    for _ in 0..2 {
        let (service, tenant) = (life.service.clone(), tenant.clone());
        life.spawn(async move { service.execute(&tenant, session, program("wait"), None, Await::End).await });
    }
    until(|| house.world.running() == 2);
    assert_eq!(life.execute_as(&tenant, session, "use 1"), Err(used_up(Quota::ConcurrentExecutions, 2)));
    house.world.release();
    until(|| house.world.running() == 0);
    // All at once: one after another they may take longer than the rate where a disk is slow.
    let quotas = Quotas { executions_per_second: Some(3), ..Quotas::default() };
    life.change(&row, TenantChange { quotas: Some(quotas), ..TenantChange::default() }).unwrap();
    let begun = (0..5).map(|_| life.service.execute(&tenant, session, program("use 1"), None, Await::End));
    let outcomes = life.block_on(join_all(begun));
    assert!(outcomes.iter().any(|outcome| matches!(outcome, Err(Refusal::Denied(Denied::TooFast)))));
    let quotas = Quotas { executions_per_second: Some(1000), ..Quotas::default() };
    life.change(&row, TenantChange { quotas: Some(quotas), ..TenantChange::default() }).unwrap();
    for _ in 0..9 {
        life.execute_as(&tenant, session, "use 1").unwrap();
    }
    life.drain();
}

/// security.md 117. The budget is reckoned by what is recorded, also across a restart.
#[test]
fn whoever_spent_the_budget_gets_nothing_more() {
    let house = House::new();
    let life = house.start();
    let (row, tenant, key) =
        life.tenant_with("t", Quotas { budget_picos: Some(89_500), ..Quotas::default() });
    let session = life.create(&tenant).unwrap();
    life.execute_as(&tenant, session, "use 3599").unwrap();
    life.execute_as(&tenant, session, "use 1").unwrap();
    let over = used_up(Quota::Budget, 89_500);
    assert_eq!(life.execute_as(&tenant, session, "use 1"), Err(over.clone()));
    assert_eq!(life.create(&tenant), Err(over.clone()));
    // What there is may be looked at, and ended.
    life.block_on(life.service.session(&tenant, session)).unwrap();
    life.kill();
    let life = house.start();
    let tenant = life.service.authenticate(&key).unwrap();
    assert_eq!(life.execute_as(&tenant, session, "use 1"), Err(over));
    assert!(life.block_on(life.service.tenant(&life.admin(), row.id)).unwrap().spent_picos >= 89_500);
    let quotas = Some(Quotas { budget_picos: Some(200_000), ..Quotas::default() });
    life.change(&row, TenantChange { quotas, ..TenantChange::default() }).unwrap();
    life.execute_as(&tenant, session, "use 1").unwrap();
    life.drain();
}

/// security.md 104 and 117.
#[test]
fn a_revoked_key_and_a_disabled_tenant_are_refused_at_once() {
    let house = House::new();
    let life = house.start();
    let (row, tenant, key) = life.tenant_with("t", Quotas::default());
    let session = life.create(&tenant).unwrap();
    let change = |disabled| TenantChange { disabled: Some(disabled), ..TenantChange::default() };
    life.change(&row, change(true)).unwrap();
    assert_eq!(life.service.enter(&tenant), Err(Refusal::Denied(Denied::Disabled)));
    assert_eq!(life.create(&tenant), Err(Refusal::Denied(Denied::Disabled)));
    let reason = || life.block_on(life.service.session(&tenant, session)).unwrap().row.close_reason;
    until(|| reason() == Some(CloseReason::Disabled));
    life.change(&row, change(false)).unwrap();
    life.create(&tenant).unwrap();
    for _ in 0..2 {
        let revoked = life.block_on(life.service.revoke_key(&life.admin(), row.id, tenant.key())).unwrap();
        assert!(revoked.revoked_us.is_some());
    }
    assert!(life.service.authenticate(&key).is_none());
    life.kill();
    let life = house.start();
    assert!(life.service.authenticate(&key).is_none(), "also after a restart");
    life.drain();
}

#[test]
fn who_administers_cannot_lock_itself_out() {
    let house = House::new();
    let life = house.start();
    let admin = life.admin();
    let own = life.block_on(life.service.tenants(&admin, None, 9)).unwrap().items.remove(0);
    for change in [
        TenantChange { disabled: Some(true), ..TenantChange::default() },
        TenantChange { name: Some("other".into()), ..TenantChange::default() },
    ] {
        assert!(matches!(life.change(&own, change), Err(Refusal::Conflict(_))));
    }
    let key = life.block_on(life.service.revoke_key(&admin, own.id, life.tenant.key()));
    assert!(matches!(key, Err(Refusal::Conflict(_))));
    let (other, tenant, _) = life.tenant_with("t", Quotas::default());
    assert!(tenant.admin().is_none());
    let again = NewTenant { name: "t".into(), quotas: Quotas::default() };
    assert!(matches!(
        life.block_on(life.service.create_tenant(&admin, again, None)),
        Err(Refusal::Conflict(_))
    ));
    let again = life.block_on(life.service.create_key(&admin, other.id, "k".into()));
    assert!(matches!(again, Err(Refusal::Conflict(_))));
    assert_eq!(
        life.block_on(life.service.revoke_key(&admin, own.id, tenant.key())),
        Err(Refusal::KeyNotFound),
        "a key is looked for among its own tenant's"
    );
    life.drain();
}
