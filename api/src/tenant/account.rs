//! What a tenant has in use, and that it never has more than it may.

use super::rate::Bucket;
use crate::config::TenantPolicy;
use crate::ledger::{Quotas, TenantId, TenantRow};
use crate::price::Picos;
use crate::words::words;
use anchorhold_sandbox::{Allowance, Boottime, Count, Flow, Limits};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

words!(
    /// What a tenant may have only so much of.
    Quota {
        /// Live sessions.
        Sessions = "sessions",
        /// Executions that wait and run.
        ConcurrentExecutions = "concurrent_executions",
        /// Cells of live sessions: interpreters, commands, browsers, and what serves their files.
        Cells = "cells",
        /// Open browsers.
        Browsers = "browsers",
        /// The sum of the memory limits of live sessions.
        MemoryBytes = "memory_bytes",
        /// The sum of the workspace limits of live sessions.
        WorkspaceBytes = "workspace_bytes",
        /// Bytes to and from the network, of everything.
        EgressBytes = "egress_bytes",
        /// The cost of everything.
        Budget = "budget_picos",
    }
);

/// Why a tenant does not get something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It was disabled.
    #[error("the tenant is disabled")]
    Disabled,
    /// It has as much as it may.
    #[error("the tenant's quota of {0} is used up ({1})")]
    Quota(Quota, u64),
    /// It asks too often.
    #[error("too many requests within a second")]
    TooFast,
}

/// Quotas over the server's defaults: everything has an end.
#[derive(Debug, Clone, Copy)]
struct Caps {
    sessions: u64,
    executions: u64,
    executions_per_second: u64,
    memory_bytes: u64,
    workspace_bytes: u64,
    egress_bytes: u64,
    budget_picos: Picos,
}

impl Caps {
    fn new(quotas: &Quotas, policy: &TenantPolicy) -> Self {
        Self {
            sessions: quotas.sessions.unwrap_or(policy.sessions),
            executions: quotas.concurrent_executions.unwrap_or(u64::MAX),
            executions_per_second: quotas.executions_per_second.unwrap_or(policy.executions_per_second),
            memory_bytes: quotas.memory_bytes.unwrap_or(u64::MAX),
            workspace_bytes: quotas.workspace_bytes.unwrap_or(u64::MAX),
            egress_bytes: quotas.egress_bytes.unwrap_or(u64::MAX),
            budget_picos: quotas.budget_picos.unwrap_or(Picos::MAX),
        }
    }
}

/// What everything that a tenant ever used comes to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Its cost.
    pub picos: Picos,
    /// Bytes to and from the network.
    pub egress_bytes: u64,
}

impl Spent {
    fn of(row: &TenantRow) -> Self {
        Self { picos: row.spent_picos, egress_bytes: row.egress_bytes }
    }

    /// Neither ever shrinks.
    fn grow(&mut self, to: Self) {
        self.picos = self.picos.max(to.picos);
        self.egress_bytes = self.egress_bytes.max(to.egress_bytes);
    }
}

#[derive(Debug)]
struct State {
    disabled: bool,
    caps: Caps,
    spent: Spent,
    sessions: u64,
    executions: u64,
    memory_bytes: u64,
    workspace_bytes: u64,
}

/// A tenant's account. What it opens counts until the claim is dropped.
#[derive(Debug)]
pub struct Account {
    id: TenantId,
    /// As the ledger knows it.
    text: String,
    policy: TenantPolicy,
    allowance: Allowance,
    state: Mutex<State>,
    begun: Bucket,
}

impl Account {
    pub(super) fn new(row: &TenantRow, policy: TenantPolicy) -> Self {
        let state = State {
            disabled: row.disabled,
            caps: Caps::new(&row.quotas, &policy),
            spent: Spent::of(row),
            sessions: 0,
            executions: 0,
            memory_bytes: 0,
            workspace_bytes: 0,
        };
        let allowance = Allowance {
            cells: Count::of(u64::MAX),
            browsers: Count::of(u64::MAX),
            said: Flow::of(policy.output_bytes_per_second),
        };
        allow(&allowance, &row.quotas);
        Self {
            id: row.id,
            text: row.id.to_string(),
            policy,
            allowance,
            state: Mutex::new(state),
            begun: Bucket::default(),
        }
    }

    /// Whose it is.
    pub fn id(&self) -> TenantId {
        self.id
    }

    /// Whose it is, as the ledger knows it.
    pub fn id_text(&self) -> &str {
        &self.text
    }

    /// From now on this holds. What is open already stays open.
    pub(super) fn apply(&self, row: &TenantRow) {
        let mut state = self.state();
        state.disabled = row.disabled;
        state.caps = Caps::new(&row.quotas, &self.policy);
        allow(&self.allowance, &row.quotas);
        // A bucket at the old rate says nothing about the new one.
        self.begun.fill();
        state.spent.grow(Spent::of(row));
    }

    /// Everything that it ever used comes to at least what this says.
    pub fn note_spent(&self, row: &TenantRow) {
        self.state().spent.grow(Spent::of(row));
    }

    /// Whether what it spends must be watched.
    pub fn has_budget(&self) -> bool {
        let caps = self.state().caps;
        caps.budget_picos < Picos::MAX || caps.egress_bytes < u64::MAX
    }

    /// What the cells of its sessions count against.
    pub fn allowance(&self) -> Allowance {
        self.allowance.clone()
    }

    /// Whether it may do anything at all.
    pub fn enabled(&self) -> Result<(), Denied> {
        if self.state().disabled { Err(Denied::Disabled) } else { Ok(()) }
    }

    /// A session with these limits begins.
    pub fn open_session(self: &Arc<Self>, limits: &Limits) -> Result<SessionClaim, Denied> {
        let state = self.state();
        state.may_spend()?;
        let caps = state.caps;
        within(Quota::Sessions, state.sessions, 1, caps.sessions)?;
        within(Quota::MemoryBytes, state.memory_bytes, limits.memory_bytes, caps.memory_bytes)?;
        within(Quota::WorkspaceBytes, state.workspace_bytes, limits.disk_bytes, caps.workspace_bytes)?;
        Ok(self.session(state, limits))
    }

    /// As [`Account::open_session`], for a session that was let in before a restart.
    pub fn resume_session(self: &Arc<Self>, limits: &Limits) -> SessionClaim {
        self.session(self.state(), limits)
    }

    fn session(self: &Arc<Self>, mut state: MutexGuard<'_, State>, limits: &Limits) -> SessionClaim {
        state.sessions += 1;
        state.memory_bytes = state.memory_bytes.saturating_add(limits.memory_bytes);
        state.workspace_bytes = state.workspace_bytes.saturating_add(limits.disk_bytes);
        drop(state);
        SessionClaim {
            account: self.clone(),
            memory_bytes: limits.memory_bytes,
            workspace_bytes: limits.disk_bytes,
        }
    }

    /// An execution begins.
    pub fn begin_execution(self: &Arc<Self>) -> Result<ExecutionClaim, Denied> {
        let mut state = self.state();
        state.may_spend()?;
        within(Quota::ConcurrentExecutions, state.executions, 1, state.caps.executions)?;
        if !self.begun.take(state.caps.executions_per_second, Boottime::now().0) {
            return Err(Denied::TooFast);
        }
        state.executions += 1;
        Ok(ExecutionClaim(self.clone()))
    }

    /// As [`Account::begin_execution`], for one that was let in before a restart.
    pub fn resume_execution(self: &Arc<Self>) -> ExecutionClaim {
        self.state().executions += 1;
        ExecutionClaim(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn may_spend(&self) -> Result<(), Denied> {
        if self.disabled {
            return Err(Denied::Disabled);
        }
        if self.spent.egress_bytes >= self.caps.egress_bytes {
            return Err(Denied::Quota(Quota::EgressBytes, self.caps.egress_bytes));
        }
        if self.spent.picos >= self.caps.budget_picos {
            return Err(Denied::Quota(Quota::Budget, u64::try_from(self.caps.budget_picos).unwrap_or(0)));
        }
        Ok(())
    }
}

fn allow(allowance: &Allowance, quotas: &Quotas) {
    allowance.cells.allow(quotas.cells.unwrap_or(u64::MAX));
    allowance.browsers.allow(quotas.browsers.unwrap_or(u64::MAX));
}

fn within(quota: Quota, used: u64, more: u64, most: u64) -> Result<(), Denied> {
    if used.saturating_add(more) <= most { Ok(()) } else { Err(Denied::Quota(quota, most)) }
}

/// A session that counts.
#[derive(Debug)]
pub struct SessionClaim {
    account: Arc<Account>,
    memory_bytes: u64,
    workspace_bytes: u64,
}

impl Drop for SessionClaim {
    fn drop(&mut self) {
        let mut state = self.account.state();
        state.sessions -= 1;
        state.memory_bytes = state.memory_bytes.saturating_sub(self.memory_bytes);
        state.workspace_bytes = state.workspace_bytes.saturating_sub(self.workspace_bytes);
    }
}

/// An execution that counts.
#[derive(Debug)]
pub struct ExecutionClaim(Arc<Account>);

impl Drop for ExecutionClaim {
    fn drop(&mut self) {
        self.0.state().executions -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anchorhold_sandbox::Id;
    use proptest::prelude::*;

    const POLICY: TenantPolicy = TenantPolicy {
        sessions: 5,
        requests_per_second: 10_000,
        executions_per_second: 1_000_000,
        output_bytes_per_second: 1 << 20,
    };

    fn row(quotas: Quotas) -> TenantRow {
        TenantRow {
            id: TenantId(Id::random()),
            name: "t".into(),
            disabled: false,
            quotas,
            spent_picos: 0,
            egress_bytes: 0,
            created_us: 0,
        }
    }

    fn limits(memory_bytes: u64, disk_bytes: u64) -> Limits {
        Limits {
            cpu_millicores: 1,
            memory_bytes,
            disk_bytes,
            processes: 1,
            output_bytes: 1,
            execution_us: 1,
            cpu_us: 1,
        }
    }

    #[test]
    fn a_budget_ends_and_a_disabled_tenant_gets_nothing() {
        let mut row = row(Quotas { budget_picos: Some(10), ..Quotas::default() });
        let account = Arc::new(Account::new(&row, POLICY));
        let spent = |picos| TenantRow { spent_picos: picos, ..row.clone() };
        account.note_spent(&spent(9));
        drop(account.begin_execution().unwrap());
        account.note_spent(&spent(10));
        account.note_spent(&spent(3));
        let moved = TenantRow { egress_bytes: 5, ..row.clone() };
        account.note_spent(&moved);
        let over = Denied::Quota(Quota::Budget, 10);
        assert_eq!(account.begin_execution().unwrap_err(), over);
        assert_eq!(account.open_session(&limits(1, 1)).unwrap_err(), over);
        row.quotas.budget_picos = Some(11);
        account.apply(&row);
        drop(account.begin_execution().unwrap());
        row.quotas.egress_bytes = Some(5);
        account.apply(&row);
        assert_eq!(account.begin_execution().unwrap_err(), Denied::Quota(Quota::EgressBytes, 5));
        row.quotas.egress_bytes = Some(6);
        account.apply(&row);
        drop(account.begin_execution().unwrap());
        row.disabled = true;
        account.apply(&row);
        assert_eq!(account.begin_execution().unwrap_err(), Denied::Disabled);
        assert_eq!(account.enabled(), Err(Denied::Disabled));
    }

    proptest! {
        /// Whatever is opened and ended in whatever order: never more than the quotas, and nothing is forgotten.
        #[test]
        fn never_more_than_the_quotas(steps in prop::collection::vec((0u64..4, 0u64..4, any::<bool>()), 0..200)) {
            let quotas = Quotas {
                memory_bytes: Some(6),
                workspace_bytes: Some(7),
                concurrent_executions: Some(3),
                ..Quotas::default()
            };
            let account = Arc::new(Account::new(&row(quotas), POLICY));
            let (mut sessions, mut executions) = (Vec::new(), Vec::new());
            for (memory, disk, open) in steps {
                if open {
                    let used = |f: fn(&SessionClaim) -> u64| sessions.iter().map(f).sum::<u64>();
                    let fits = sessions.len() < 5
                        && used(|s| s.memory_bytes) + memory <= 6
                        && used(|s| s.workspace_bytes) + disk <= 7;
                    let claim = account.open_session(&limits(memory, disk));
                    prop_assert_eq!(claim.is_ok(), fits);
                    sessions.extend(claim);
                    let claim = account.begin_execution();
                    prop_assert_eq!(claim.is_ok(), executions.len() < 3);
                    executions.extend(claim);
                } else {
                    sessions.pop();
                    executions.pop();
                }
            }
            drop((sessions, executions));
            let state = account.state();
            prop_assert_eq!((state.sessions, state.executions, state.memory_bytes, state.workspace_bytes), (0, 0, 0, 0));
        }
    }
}
