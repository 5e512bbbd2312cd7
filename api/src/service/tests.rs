//! The use cases against a model of the sandbox and a real ledger; the service dies at any time.

pub mod model;
mod tenants;

use super::*;
use crate::config::{Flags, LedgerSync, Raw};
use crate::ledger::UsageGroup;
use crate::tenant::Quota;
use crate::words::{ExecutionStatus, Language};
use model::World;
use std::time::Instant;
use tokio::runtime::Runtime as Tokio;

/// The key that administers.
pub const KEY: &str = "0123456789abcdef";

/// A service that can be killed, and a world that survives that.
pub struct House {
    dir: tempfile::TempDir,
    outside: Option<Tokio>,
    world: World,
    boot_id: String,
}

/// One life of the service.
pub struct Life {
    runtime: Option<Tokio>,
    pub service: Service,
    pub tenant: Tenant,
}

impl House {
    pub fn new() -> Self {
        let outside =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let world = World::new(outside.handle().clone());
        Self { dir: tempfile::tempdir().unwrap(), outside: Some(outside), world, boot_id: "boot".into() }
    }

    fn start(&self) -> Life {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let service = runtime.block_on(self.service(LedgerSync::Process));
        let tenant = service.authenticate(KEY).unwrap();
        Life { runtime: Some(runtime), service, tenant }
    }

    /// A service on the current runtime.
    pub async fn service(&self, sync: LedgerSync) -> Service {
        let config = Raw::load(&Flags::default(), std::iter::empty()).unwrap().resolve(None).unwrap();
        let ledger = Ledger::open(self.dir.path(), sync).await.unwrap();
        let (sandbox, events) = self.world.connect();
        let tenants =
            Tenants::load(&ledger, config.tenants, &KEY.to_owned().into(), None, now_us()).await.unwrap();
        let (mut policy, prices) = (config.session, config.prices);
        // The world of these tests has nothing else.
        policy.default_runtime = crate::words::Runtime::Wasm;
        let boot_id = self.boot_id.clone();
        let directory = self.dir.path().join("audit");
        std::fs::create_dir_all(&directory).unwrap();
        let audit = Audit::start(&directory, config.audit).unwrap();
        let traces = Traces::default();
        let parts = Parts { ledger, tenants, sandbox, events, policy, prices, audit, traces, boot_id };
        Service::start(parts).await.unwrap()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // May be dropped on another runtime, which must not block.
        self.outside.take().unwrap().shutdown_background();
    }
}

impl Life {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.as_ref().unwrap().block_on(future)
    }

    fn spawn<F: Future<Output: Send> + Send + 'static>(
        &self,
        future: F,
    ) -> tokio::task::JoinHandle<F::Output> {
        self.runtime.as_ref().unwrap().spawn(future)
    }

    fn session(&self) -> SessionId {
        let request = SessionRequest::default();
        self.block_on(self.service.create_session(&self.tenant, request, None)).unwrap().id
    }

    fn execute(
        &self,
        session: SessionId,
        code: &str,
        key: Option<Key>,
    ) -> Result<Arc<ExecutionRow>, Refusal> {
        self.block_on(self.service.execute(&self.tenant, session, program(code), key, Await::End))
    }

    /// Starts an execution and does not wait for it.
    fn begin(&self, session: SessionId, code: &str, key: Option<Key>) {
        let (service, tenant, request) = (self.service.clone(), self.tenant.clone(), program(code));
        self.spawn(async move { service.execute(&tenant, session, request, key, Await::End).await });
    }

    /// As `kill -9`: every task ends where it is.
    fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(5));
    }

    fn drain(mut self) {
        self.block_on(self.service.drain(Duration::from_secs(5)));
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(5));
    }
}

fn program(code: &str) -> ExecutionRequest {
    ExecutionRequest::new(Language::Python, code.into())
}

fn key(text: &str, hash: u8) -> Option<Key> {
    Some(Key { text: text.into(), hash: [hash; 32] })
}

fn until(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(10), "waited for too long");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn an_execution_is_answered_recorded_and_priced() {
    let house = House::new();
    let life = house.start();
    let session = life.session();
    let row = life.execute(session, "use 3600", None).unwrap();
    assert_eq!((row.status, row.report.as_ref().unwrap().cost_picos), (ExecutionStatus::Succeeded, 89_500));
    let read = life.block_on(life.service.execution(&life.tenant, session, row.id)).unwrap();
    assert_eq!(read.output, row.output);
    let view = life.block_on(life.service.delete_session(&life.tenant, session)).unwrap();
    assert_eq!((view.row.status, view.row.close_reason), (SessionStatus::Closed, Some(CloseReason::Client)));
    assert_eq!(view.totals.cost_picos, 89_500);
    let again = life.block_on(life.service.delete_session(&life.tenant, session)).unwrap();
    assert_eq!((again.totals, again.row.ended_us), (view.totals, view.row.ended_us));
    assert_eq!(life.execute(session, "use 1", None), Err(Refusal::SessionClosed));
    life.drain();
    assert_eq!(house.world.tombstones(), 0);
}

#[test]
fn what_was_left_behind_in_a_cell_is_standing_use() {
    let house = House::new();
    let life = house.start();
    let session = life.session();
    life.execute(session, "daemon 1000", None).unwrap();
    let view = life.block_on(life.service.delete_session(&life.tenant, session)).unwrap();
    assert_eq!(view.totals.cpu_us, 1100);
    let query = UsageQuery {
        from_us: 0,
        to_us: i64::MAX,
        group: Some(UsageGroup::Kind),
        after: String::new(),
        limit: 9,
    };
    let lines = life.block_on(life.service.usage(&life.tenant, &query)).unwrap();
    let lines: Vec<_> = lines.iter().map(|line| (line.group.as_str(), line.totals.cpu_us)).collect();
    assert_eq!(lines, [("execution", 100), ("standing", 1000)]);
    life.drain();
}

#[test]
fn a_key_runs_once_and_attaches_and_answers_again() {
    let house = House::new();
    let life = house.start();
    let session = life.session();
    life.begin(session, "wait", key("k", 1));
    until(|| house.world.running() == 1);
    assert_eq!(life.execute(session, "wait", key("k", 2)), Err(Refusal::KeyConflict));
    let attached = {
        let (service, tenant) = (life.service.clone(), life.tenant.clone());
        life.spawn(async move {
            service.execute(&tenant, session, program("wait"), key("k", 1), Await::End).await
        })
    };
    std::thread::sleep(Duration::from_millis(20));
    house.world.release();
    let first = life.block_on(attached).unwrap().unwrap();
    let again = life.execute(session, "wait", key("k", 1)).unwrap();
    assert_eq!((again.id, &again.output), (first.id, &first.output));
    assert_eq!(life.execute(session, "wait", key("k", 2)), Err(Refusal::KeyConflict));
    assert_eq!(house.world.starts(), [1]);
    // Another session is another scope.
    let other = life.session();
    assert_ne!(life.execute(other, "wait", key("k", 2)).unwrap().id, first.id);
    // The answer outlives the session.
    life.block_on(life.service.delete_session(&life.tenant, session)).unwrap();
    assert_eq!(life.execute(session, "wait", key("k", 1)).unwrap().id, first.id);
    life.drain();
}

#[test]
fn a_refusal_is_not_remembered_and_leaves_nothing() {
    let house = House::new();
    let life = house.start();
    let session = life.session();
    assert!(matches!(life.execute(session, "capacity", key("k", 1)), Err(Refusal::Capacity(_))));
    assert!(life.block_on(life.service.executions(&life.tenant, session, None, 9)).unwrap().items.is_empty());
    life.execute(session, "use 1", key("k", 2)).unwrap();
    let run = |code: &str| RunRequest {
        session: SessionRequest::default(),
        execution: program(code),
        files: Vec::new(),
        return_files: Vec::new(),
    };
    let refused = life.block_on(life.service.run(&life.tenant, run("capacity"), None, Await::End));
    assert!(matches!(refused, Err(Refusal::Capacity(_))));
    let sessions =
        || life.block_on(life.service.sessions(&life.tenant, None, &[], None, 9)).unwrap().items.len();
    until(|| sessions() == 1);
    life.block_on(life.service.run(&life.tenant, run("use 5"), key("k", 1), Await::End)).unwrap();
    until(|| house.world.finals_us() == 5);
    life.drain();
}

#[test]
fn sessions_are_created_once_by_key_and_counted() {
    let house = House::new();
    let life = house.start();
    let create = |hash| {
        life.block_on(life.service.create_session(&life.tenant, SessionRequest::default(), key("k", hash)))
    };
    let first = create(1).unwrap();
    let change = SessionChange {
        metadata: Some([("a".to_owned(), "b".to_owned())].into()),
        ttl_us: Some(5_000_000),
        network: Some(Network::Allow(vec!["example.org".into()])),
    };
    let changed = life.block_on(life.service.change_session(&life.tenant, first.id, change)).unwrap();
    assert_eq!(changed.row.metadata["a"], "b");
    let network = Network::Allow(vec!["example.org".into()]);
    assert_eq!((&first.terms.network, &changed.row.terms.network), (&Network::None, &network));
    let change = SessionChange { ttl_us: Some(5_000_000), ..SessionChange::default() };
    let changed = life.block_on(life.service.change_session(&life.tenant, first.id, change)).unwrap();
    assert_eq!((&changed.row.terms.network, &changed.row.terms.limits), (&network, &first.terms.limits));
    assert!(changed.row.expires_us < first.expires_us);
    let again = create(1).unwrap();
    assert_eq!((again.id, again.expires_us), (first.id, first.expires_us));
    assert_eq!(create(2).unwrap_err(), Refusal::KeyConflict);
    let stranger = Tenant::for_test();
    assert_eq!(
        life.block_on(life.service.session(&stranger, first.id)).unwrap_err(),
        Refusal::SessionNotFound
    );
    for _ in 1..1000 {
        life.session();
    }
    let refused = life.block_on(life.service.create_session(&life.tenant, SessionRequest::default(), None));
    assert_eq!(refused.unwrap_err(), Refusal::Denied(Denied::Quota(Quota::Sessions, 1000)));
    life.kill();
}

#[test]
fn time_ends_sessions() {
    let house = House::new();
    let life = house.start();
    let create =
        |request| life.block_on(life.service.create_session(&life.tenant, request, None)).unwrap().id;
    let short = create(SessionRequest { ttl_us: Some(50_000), ..SessionRequest::default() });
    let idle = create(SessionRequest { idle_timeout_us: Some(50_000), ..SessionRequest::default() });
    let long = life.session();
    life.begin(idle, "wait", None);
    let reason = |id| life.block_on(life.service.session(&life.tenant, id)).unwrap().row.close_reason;
    until(|| reason(short) == Some(CloseReason::Expired));
    // Something runs in it, so it is not idle.
    assert_eq!(reason(idle), None);
    house.world.release();
    until(|| reason(idle) == Some(CloseReason::Idle));
    assert_eq!(reason(long), None);
    life.drain();
}

#[test]
fn a_caller_that_goes_away_loses_the_answer_not_the_record() {
    let house = House::new();
    let life = house.start();
    let session = life.session();
    for (on_disconnect, status) in [
        (OnDisconnect::Cancel, ExecutionStatus::Cancelled),
        (OnDisconnect::Continue, ExecutionStatus::Succeeded),
    ] {
        let (service, tenant) = (life.service.clone(), life.tenant.clone());
        let request = ExecutionRequest { on_disconnect, ..program("wait") };
        let caller =
            life.spawn(async move { service.execute(&tenant, session, request, None, Await::End).await });
        until(|| house.world.running() == 1);
        caller.abort();
        if on_disconnect == OnDisconnect::Continue {
            house.world.release();
        }
        let latest = || {
            let page = life.block_on(life.service.executions(&life.tenant, session, None, 1)).unwrap();
            page.items[0].status
        };
        until(|| latest() == status);
    }
    assert_eq!(life.block_on(life.service.records(&life.tenant, session, None, 9)).unwrap().items.len(), 2);
    life.drain();
}

#[test]
fn cancelling_answers_the_end() {
    let house = House::new();
    let life = house.start();
    let session = life.session();
    life.begin(session, "wait", None);
    until(|| house.world.running() == 1);
    let page = life.block_on(life.service.executions(&life.tenant, session, None, 1)).unwrap();
    let id = page.items[0].id;
    let row = life.block_on(life.service.cancel(&life.tenant, session, id)).unwrap();
    assert_eq!(row.status, ExecutionStatus::Cancelled);
    let again = life.block_on(life.service.cancel(&life.tenant, session, id)).unwrap();
    assert_eq!(again.status, ExecutionStatus::Cancelled);
    let unknown = life.block_on(life.service.cancel(&life.tenant, session, ExecutionId::random()));
    assert_eq!(unknown.unwrap_err(), Refusal::ExecutionNotFound);
    life.drain();
}

#[test]
fn after_a_kill_a_running_execution_is_taken_up_again() {
    let house = House::new();
    let life = house.start();
    let session = life.session();
    life.begin(session, "wait", key("k", 1));
    until(|| house.world.running() == 1);
    life.kill();
    let life = house.start();
    let attached = {
        let (service, tenant) = (life.service.clone(), life.tenant.clone());
        life.spawn(async move {
            service.execute(&tenant, session, program("wait"), key("k", 1), Await::End).await
        })
    };
    std::thread::sleep(Duration::from_millis(20));
    house.world.release();
    let row = life.block_on(attached).unwrap().unwrap();
    assert_eq!(row.status, ExecutionStatus::Succeeded);
    assert_eq!(house.world.starts(), [1]);
    // The context that it named is known by its id.
    let id = context_id(session, &row.place).unwrap();
    let request = ExecutionRequest { context: ContextName::Id(id), ..program("use 1") };
    life.block_on(life.service.execute(&life.tenant, session, request, None, Await::End)).unwrap();
    life.drain();
}

#[test]
fn what_nobody_knows_any_more_is_lost_for_ever_and_free() {
    let house = House::new();
    let life = house.start();
    let session = life.session();
    life.begin(session, "wait", key("k", 1));
    until(|| house.world.running() == 1);
    life.kill();
    house.world.lose_everything();
    for _ in 0..2 {
        let life = house.start();
        let row = life.execute(session, "wait", key("k", 1)).unwrap();
        assert_eq!(row.status, ExecutionStatus::Lost);
        let view = life.block_on(life.service.session(&life.tenant, session)).unwrap();
        assert_eq!((view.row.close_reason, view.totals.cost_picos), (Some(CloseReason::Lost), 0));
        life.kill();
    }
    assert_eq!(house.world.starts(), [1]);
}

#[test]
fn after_a_reboot_every_session_is_over() {
    let mut house = House::new();
    let life = house.start();
    let (used, fresh) = (life.session(), life.session());
    life.execute(used, "use 10", None).unwrap();
    life.begin(used, "wait", None);
    until(|| house.world.running() == 1);
    life.kill();
    house.world.lose_everything();
    house.boot_id = "another".into();
    let life = house.start();
    for session in [used, fresh] {
        let view = life.block_on(life.service.session(&life.tenant, session)).unwrap();
        assert_eq!(view.row.close_reason, Some(CloseReason::HostRestart));
    }
    let page = life.block_on(life.service.executions(&life.tenant, used, None, 1)).unwrap();
    assert_eq!(page.items[0].status, ExecutionStatus::Lost);
    life.drain();
}

#[test]
fn a_stop_lets_executions_end_and_sessions_say_why() {
    let house = House::new();
    let life = house.start();
    let session = life.session();
    life.begin(session, "wait", None);
    until(|| house.world.running() == 1);
    life.service.refuse_new_work();
    assert_eq!(life.execute(session, "use 1", None), Err(Refusal::Draining));
    let created = life.block_on(life.service.create_session(&life.tenant, SessionRequest::default(), None));
    assert_eq!(created.unwrap_err(), Refusal::Draining);
    let world = house.world.clone();
    let release = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        world.release();
    });
    life.drain();
    release.join().unwrap();
    let life = house.start();
    let view = life.block_on(life.service.session(&life.tenant, session)).unwrap();
    assert_eq!(view.row.close_reason, Some(CloseReason::Shutdown));
    let page = life.block_on(life.service.executions(&life.tenant, session, None, 1)).unwrap();
    assert_eq!(page.items[0].status, ExecutionStatus::Succeeded);
    life.drain();
}

#[test]
fn a_mistake_of_ours_is_an_answer_and_the_service_goes_on() {
    let house = House::new();
    let life = house.start();
    let session = life.session();
    assert_eq!(life.execute(session, "panic", None), Err(Refusal::Internal));
    assert_eq!(life.execute(session, "panic", key("k", 1)), Err(Refusal::Internal));
    life.execute(session, "use 1", None).unwrap();
    life.block_on(life.service.delete_session(&life.tenant, session)).unwrap();
    life.drain();
}

/// Every execution once, one record each, every microsecond once: whenever the service is killed.
#[test]
fn killed_at_any_time_the_records_add_up() {
    let house = House::new();
    let mut random = 7u64;
    let mut next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        random >> 33
    };
    let mut sessions = Vec::new();
    for _ in 0..12 {
        let life = house.start();
        sessions.push(life.session());
        for i in 0..30 {
            let session = sessions[usize::try_from(next()).unwrap() % sessions.len()];
            let code =
                format!("{} {}", ["use", "daemon"][usize::try_from(next()).unwrap() % 2], next() % 1000);
            life.begin(session, &code, key(&format!("{i}"), 1));
        }
        std::thread::sleep(Duration::from_micros(next() % 6000));
        life.kill();
    }
    let life = house.start();
    let mut recorded = 0;
    let mut free = true;
    for &session in &sessions {
        let view = life.block_on(life.service.delete_session(&life.tenant, session)).unwrap();
        recorded += view.totals.cpu_us;
        let page = life.block_on(life.service.executions(&life.tenant, session, None, 1000)).unwrap();
        assert!(page.items.iter().all(|row| row.ended_us.is_some()), "every execution is closed");
        let records = life.block_on(life.service.records(&life.tenant, session, None, 1000)).unwrap().items;
        let with_record: std::collections::HashSet<_> = records.iter().filter_map(|r| r.execution).collect();
        for row in &page.items {
            assert_eq!(with_record.contains(&row.id), row.status != ExecutionStatus::Lost, "{row:?}");
        }
        free &= records.iter().all(|record| !record.estimated || record.used.cost_picos == 0);
    }
    assert!(free);
    assert_eq!(recorded, house.world.finals_us());
    assert!(house.world.starts().iter().all(|&count| count == 1), "nothing ran twice");
    life.drain();
    assert_eq!(house.world.tombstones(), 0);
}
