//! The ledger keeps its promises whatever crashes.

use super::*;
use crate::price::{Plan, Used};
use anchorhold_sandbox::{BrowserTime, Cause, Network, Tombstone, Traffic};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const LIMITS: Limits = Limits {
    cpu_millicores: 1000,
    memory_bytes: 1 << 30,
    disk_bytes: 1 << 29,
    processes: 128,
    output_bytes: 1 << 24,
    execution_us: 60_000_000,
    cpu_us: 3_600_000_000,
};

fn session_row() -> SessionRow {
    SessionRow {
        id: SessionId::random(),
        tenant: "default".into(),
        status: SessionStatus::Active,
        close_reason: None,
        created_us: 1,
        expires_us: 2,
        expires_boot: Boottime(3),
        boot_id: "boot".into(),
        ended_us: None,
        used: false,
        metadata: [("team".to_owned(), "blue".to_owned())].into(),
        terms: Terms {
            name: Some("n".into()),
            runtime: Runtime::Wasm,
            limits: LIMITS,
            env: vec![("A".into(), "b".into())],
            idle_timeout_us: None,
            network: Network::Allow(vec!["example.org".into()]),
            viewport: Some((390, 844)),
        },
        walls: None,
    }
}

fn new_execution(session: SessionId) -> NewExecution {
    NewExecution {
        id: ExecutionId::random(),
        session,
        created_us: 5,
        place: Place {
            language: Language::Python,
            engine: None,
            runtime: Runtime::Wasm,
            image: Digest([7; 32]),
            context: "default".into(),
        },
    }
}

/// A cell and how much of both of its counters is accounted.
fn cell(id: CellId, count: u64) -> Option<(CellId, Accounted)> {
    Some((id, Accounted { cpu_us: count, egress_bytes: count }))
}

/// Of one that used so many microseconds and moved as many bytes.
fn closing(new: &NewExecution, cell: Option<(CellId, Accounted)>, count: u64) -> Closing {
    let plan = Plan::default();
    let egress_picos = plan.cost(Used { egress_bytes: count, ..Used::default() });
    Closing {
        id: new.id,
        session: new.session,
        tenant: "default".into(),
        status: ExecutionStatus::Succeeded,
        created_us: new.created_us,
        ended_us: 10,
        place: new.place.clone(),
        cell,
        report: Report {
            cpu_us: count,
            egress_bytes: count,
            cost_picos: plan.cost(Used { cpu_us: count, ..Used::default() }) + egress_picos,
            ..Report::default()
        },
        output: Output { stdout: "2\n".into(), ..Output::default() }.into(),
        egress_picos,
        price_version: "t".into(),
        taking: None,
    }
}

/// Of a cell that used so many microseconds and moved as many bytes.
fn tombstone(cell: CellId, session: SessionId, count: u64) -> Tombstone {
    Tombstone {
        cell,
        session,
        cause: Cause::Ended,
        cpu_us: count,
        memory_peak_bytes: 0,
        oom_kills: 0,
        traffic: Traffic { sent_bytes: count / 3, received_bytes: count - count / 3 },
        browser: None,
    }
}

fn once(key: &str) -> Once {
    Once { tenant: "default".into(), route: "run".into(), key: key.into(), hash: [1; 32] }
}

#[tokio::test]
async fn what_was_written_is_read_back_after_a_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), LedgerSync::Process).await.unwrap();
    let (row, other) = (session_row(), session_row());
    let new = new_execution(row.id);
    ledger.open_run(&row, &new, Some(&once("k"))).await.unwrap();
    ledger.open_session(&other, Some(&Once { route: "sessions".into(), ..once("k") })).await.unwrap();
    ledger.close_execution(&closing(&new, cell(CellId::random(), 70), 70)).await.unwrap();
    ledger.close().await;

    let ledger = Ledger::open(dir.path(), LedgerSync::Power).await.unwrap();
    let read = ledger.session("default", row.id).await.unwrap().unwrap();
    assert_eq!((read.metadata, read.terms.env), (row.metadata, row.terms.env));
    assert!(ledger.session("other", row.id).await.unwrap().is_none());
    let read = ledger.execution(row.id, new.id).await.unwrap().unwrap();
    assert_eq!(read.output.unwrap().stdout, "2\n");
    assert!(ledger.execution(other.id, new.id).await.unwrap().is_none());
    let remembered = ledger.remembered(&once("k")).await.unwrap().unwrap();
    assert!(matches!(remembered.subject, Subject::Execution(id) if id == new.id));
    let remembered =
        ledger.remembered(&Once { route: "sessions".into(), ..once("k") }).await.unwrap().unwrap();
    assert!(matches!(remembered.subject, Subject::Made(Made::Session(row)) if row.id == other.id));
    assert!(ledger.remembered(&once("unknown")).await.unwrap().is_none());

    let tag = |value: &str| [("team".to_owned(), value.to_owned())];
    let page = ledger.sessions("default", None, &tag("blue"), None, 1).await.unwrap();
    assert_eq!(page.items[0].id, other.id);
    let page = ledger.sessions("default", None, &tag("blue"), page.next, 1).await.unwrap();
    assert_eq!((page.items[0].id, page.next), (row.id, None));
    assert!(ledger.sessions("default", None, &tag("red"), None, 9).await.unwrap().items.is_empty());
    let closed = Some(SessionStatus::Closed);
    assert!(ledger.sessions("default", closed, &[], None, 9).await.unwrap().items.is_empty());
    ledger.close().await;
    assert!(matches!(ledger.use_session(row.id).await, Err(LedgerError::Closed)));
}

#[tokio::test]
async fn released_is_as_if_it_had_never_been() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), LedgerSync::Process).await.unwrap();
    let row = session_row();
    let new = new_execution(row.id);
    ledger.open_run(&row, &new, Some(&once("k"))).await.unwrap();
    ledger.release_execution(new.id).await.unwrap();
    ledger.end_session(row.id, CloseReason::Client, 9, None).await.unwrap();
    ledger.forget_session(row.id).await.unwrap();
    assert!(ledger.session("default", row.id).await.unwrap().is_none());
    assert!(ledger.execution_anywhere(new.id).await.unwrap().is_none());
    assert!(ledger.remembered(&once("k")).await.unwrap().is_none());
    // The key is free again.
    ledger.open_run(&session_row(), &new, Some(&once("k"))).await.unwrap();
    ledger.close().await;
}

#[tokio::test]
async fn a_write_that_fails_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), LedgerSync::Process).await.unwrap();
    let row = session_row();
    ledger.open_session(&row, None).await.unwrap();
    let writes = (0..50).map(|i| {
        let ledger = ledger.clone();
        // Every fifth repeats the id of the first.
        let row = if i % 5 == 0 { row.clone() } else { session_row() };
        tokio::spawn(async move { (i, ledger.open_session(&row, None).await.is_ok()) })
    });
    for write in writes.collect::<Vec<_>>() {
        let (i, written) = write.await.unwrap();
        assert_eq!(written, i % 5 != 0, "{i}");
    }
    assert_eq!(ledger.sessions("default", None, &[], None, 100).await.unwrap().items.len(), 41);
    ledger.close().await;
}

#[tokio::test]
async fn of_long_outputs_the_newest_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), LedgerSync::Process).await.unwrap();
    // Two fit, as they are stored: their letters are not compressed.
    let ledger = ledger.with_long_outputs_max(400_000);
    let row = session_row();
    ledger.open_session(&row, None).await.unwrap();
    let (mut ids, mut seed) = (Vec::new(), 1u64);
    for (tenant, length) in
        [("a", 150_000), ("b", 150_000), ("a", 9), ("a", 150_000), ("a", 150_000), ("a", 9)]
    {
        let new = new_execution(row.id);
        ledger.open_execution(&new, None).await.unwrap();
        let letter = |at: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(at);
            char::from(b' ' + u8::try_from((seed >> 33) % 90).unwrap())
        };
        let output = Output { stdout: (0..length).map(letter).collect(), ..Output::default() };
        let closing = Closing { tenant: tenant.into(), output: output.into(), ..closing(&new, None, 0) };
        ledger.close_execution(&closing).await.unwrap();
        ledger.close_execution(&closing).await.unwrap();
        ids.push(new.id);
    }
    let mut kept = Vec::new();
    for id in ids {
        kept.push(ledger.execution(row.id, id).await.unwrap().unwrap().output.is_some());
    }
    assert_eq!(kept, [false, true, true, true, true, true]);
    ledger.close().await;
}

/// What is billed does not depend on what is kept.
#[tokio::test]
async fn an_execution_is_closed_although_its_long_output_cannot_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), LedgerSync::Process).await.unwrap();
    let row = session_row();
    ledger.open_session(&row, None).await.unwrap();
    let new = new_execution(row.id);
    ledger.open_execution(&new, None).await.unwrap();
    let output = Output { stdout: "x".repeat(100_000), ..Output::default() };
    let closing = Closing { output: output.into(), ..closing(&new, cell(CellId::random(), 7), 7) };
    let mut outputs = sqlx::sqlite::SqliteConnectOptions::new().filename(dir.path().join("outputs.sqlite"));
    outputs = outputs.busy_timeout(Duration::ZERO);
    let mut other = outputs.connect().await.unwrap();
    sqlx::raw_sql("DROP TABLE outputs").execute(&mut other).await.unwrap();
    ledger.close_execution(&closing).await.unwrap();
    let read = ledger.execution(row.id, new.id).await.unwrap().unwrap();
    assert_eq!((read.status, read.output), (closing.status, None));
    let records = ledger.records(row.id, None, 10).await.unwrap().items;
    assert_eq!(records.iter().filter(|record| record.kind == RecordKind::Execution).count(), 1);
    ledger.close().await;
}

#[tokio::test]
async fn old_things_go_and_what_is_kept_stays() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), LedgerSync::Process).await.unwrap();
    let row = session_row();
    let new = new_execution(row.id);
    ledger.open_run(&row, &new, Some(&once("done"))).await.unwrap();
    let output = Output { stdout: "x".repeat(100_000), ..Output::default() };
    let done = Closing { output: output.into(), ..closing(&new, cell(CellId::random(), 7), 7) };
    ledger.close_execution(&done).await.unwrap();
    assert_eq!(ledger.execution(row.id, new.id).await.unwrap().unwrap().output.as_ref(), Some(&*done.output));
    let gone = new_execution(row.id);
    ledger.open_execution(&gone, Some(&once("lost"))).await.unwrap();
    let lost = Closing { status: ExecutionStatus::Lost, ..closing(&gone, None, 0) };
    ledger.close_execution(&lost).await.unwrap();

    // Outputs and answers go after a day …
    ledger.sweep(100, 0).await.unwrap();
    let read = ledger.execution(row.id, new.id).await.unwrap().unwrap();
    assert!(read.output.is_none() && read.report.is_some());
    assert!(ledger.outputs.read(new.id).await.unwrap().is_none());
    assert!(ledger.remembered(&once("done")).await.unwrap().is_none());
    // … but what was lost stays lost.
    assert!(ledger.remembered(&once("lost")).await.unwrap().is_some());
    // Sessions go long after their end, with everything.
    ledger.sweep(100, 100).await.unwrap();
    assert!(ledger.session("default", row.id).await.unwrap().is_some());
    ledger.end_session(row.id, CloseReason::Client, 50, None).await.unwrap();
    ledger.sweep(100, 100).await.unwrap();
    assert!(ledger.session("default", row.id).await.unwrap().is_none());
    assert!(ledger.records(row.id, None, 10).await.unwrap().items.is_empty());
    ledger.close().await;
}

#[tokio::test]
async fn a_browsers_time_is_recorded_once_when_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), LedgerSync::Process).await.unwrap();
    let row = session_row();
    ledger.open_session(&row, None).await.unwrap();
    let (id, new) = (CellId::random(), new_execution(row.id));
    ledger.open_execution(&new, None).await.unwrap();
    ledger.close_execution(&closing(&new, cell(id, 10), 10)).await.unwrap();
    let browser = BrowserTime { active_us: 7_000_000, standby_us: 90_000_000 };
    let gone = Tombstone { browser: Some(browser), ..tombstone(id, row.id, 25) };
    let plan = Plan::default();
    for _ in 0..2 {
        ledger.settle_cell(&gone, &plan, 20).await.unwrap();
    }
    // One that did nothing between its actions was open all the same.
    let (idle, other) = (CellId::random(), BrowserTime { active_us: 1_000, standby_us: 0 });
    let gone = Tombstone { browser: Some(other), ..tombstone(idle, row.id, 0) };
    ledger.settle_cell(&gone, &plan, 20).await.unwrap();
    let records = ledger.records(row.id, None, 10).await.unwrap().items;
    let browsers: Vec<_> = records.iter().filter(|record| record.kind == RecordKind::Browser).collect();
    let used = |record: &Record| (record.id.clone(), record.used.cpu_us, record.used.browser);
    assert_eq!(
        browsers.iter().map(|record| used(record)).collect::<Vec<_>>(),
        [(idle.to_string(), 0, other), (id.to_string(), 15, browser)]
    );
    let cost = plan.cost(Used { cpu_us: 15, browser, ..Used::default() });
    assert_eq!(browsers[1].used.cost_picos, i128::from(cost));
    assert!(records.iter().all(|record| record.kind != RecordKind::Standing));
    let all = ledger.totals(&[row.id]).await.unwrap()[0];
    assert_eq!(all.browser, BrowserTime { active_us: 7_001_000, standby_us: 90_000_000 });
    ledger.close().await;
}

#[tokio::test]
async fn usage_is_summed_by_session_day_and_kind() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), LedgerSync::Process).await.unwrap();
    let row = session_row();
    ledger.open_session(&row, None).await.unwrap();
    let id = CellId::random();
    for total in [10, 30] {
        let new = new_execution(row.id);
        ledger.open_execution(&new, None).await.unwrap();
        ledger
            .close_execution(&closing(&new, cell(id, total), if total == 10 { 10 } else { 20 }))
            .await
            .unwrap();
    }
    let day_us = 86_400_000_000;
    ledger.settle_cell(&tombstone(id, row.id, 35), &Plan::default(), 3 * day_us).await.unwrap();
    let query = |group| UsageQuery { from_us: 0, to_us: i64::MAX, group, after: String::new(), limit: 10 };
    let lines = |lines: Vec<UsageLine>| {
        let sums = |line: UsageLine| (line.group, line.totals.cpu_us, line.totals.bytes);
        lines.into_iter().map(sums).collect::<Vec<_>>()
    };
    let kind = lines(ledger.usage("default", &query(Some(UsageGroup::Kind))).await.unwrap());
    assert_eq!(kind, [("egress".into(), 0, 35), ("execution".into(), 30, 0), ("standing".into(), 5, 0)]);
    let day = lines(ledger.usage("default", &query(Some(UsageGroup::Day))).await.unwrap());
    assert_eq!(day, [("00000000".into(), 30, 30), ("00000003".into(), 5, 5)]);
    let session = lines(ledger.usage("default", &query(Some(UsageGroup::Session))).await.unwrap());
    assert_eq!(session, [(row.id.to_string(), 35, 35)]);
    let all = ledger.usage("default", &query(None)).await.unwrap();
    assert_eq!(all[0].totals.records, 6);
    // Each record is rounded for itself.
    let plan = Plan::default();
    let parts = [10, 20, 5].map(|count| {
        plan.cost(Used { cpu_us: count, ..Used::default() })
            + plan.cost(Used { egress_bytes: count, ..Used::default() })
    });
    assert_eq!(all[0].totals.cost_picos, i128::from(parts.iter().sum::<i64>()));
    let records = ledger.records(row.id, None, 10).await.unwrap().items;
    let of_executions: Vec<_> = records
        .iter()
        .filter(|record| record.kind == RecordKind::Egress)
        .map(|r| r.execution.is_some())
        .collect();
    assert_eq!(of_executions, [false, true, true]);
    assert_eq!(ledger.totals(&[row.id]).await.unwrap()[0], all[0].totals);
    assert!(ledger.usage("other", &query(None)).await.unwrap().is_empty());
    ledger.close().await;
}

/// What happens to cells and their executions.
#[derive(Debug, Clone)]
enum Happening {
    /// An execution is opened.
    Open,
    /// The oldest open one ends in that cell, which used so much.
    End { cell: usize, cpu_us: u64 },
    /// The last closing is repeated, with other numbers.
    CloseAgain(u64),
    /// Something left behind in the cell uses so much.
    Daemon { cell: usize, cpu_us: u64 },
    /// The cell ends.
    CellEnds(usize),
    /// Ended cells are settled; the warden forgets them or not.
    Settle { acknowledged: bool },
    /// The service dies; open executions are lost.
    Crash,
}

fn happening() -> impl Strategy<Value = Happening> {
    let cpu_us = 0u64..1000;
    prop_oneof![
        3 => Just(Happening::Open),
        4 => (0usize..3, cpu_us.clone()).prop_map(|(cell, cpu_us)| Happening::End { cell, cpu_us }),
        1 => cpu_us.clone().prop_map(Happening::CloseAgain),
        2 => (0usize..3, cpu_us).prop_map(|(cell, cpu_us)| Happening::Daemon { cell, cpu_us }),
        1 => (0usize..3).prop_map(Happening::CellEnds),
        2 => any::<bool>().prop_map(|acknowledged| Happening::Settle { acknowledged }),
        1 => Just(Happening::Crash),
    ]
}

/// The cells as the kernel counts them, beside the ledger under test.
struct World {
    dir: tempfile::TempDir,
    ledger: Ledger,
    session: SessionRow,
    cells: Vec<(CellId, u64)>,
    open: Vec<NewExecution>,
    last: Option<Closing>,
    tombstones: Vec<Tombstone>,
    finals: HashMap<CellId, u64>,
    lost: usize,
    ended: usize,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path(), LedgerSync::Process).await.unwrap();
        let session = session_row();
        ledger.open_session(&session, None).await.unwrap();
        let cells = (0..3).map(|_| (CellId::random(), 0)).collect();
        let (open, tombstones) = (Vec::new(), Vec::new());
        Self {
            dir,
            ledger,
            session,
            cells,
            open,
            last: None,
            tombstones,
            finals: HashMap::new(),
            lost: 0,
            ended: 0,
        }
    }

    async fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Open => {
                let new = new_execution(self.session.id);
                self.ledger.open_execution(&new, None).await.unwrap();
                self.open.push(new);
            }
            Happening::End { cell, cpu_us } if !self.open.is_empty() => {
                let new = self.open.remove(0);
                self.cells[cell].1 += cpu_us;
                let (id, total) = self.cells[cell];
                let recorded = self.ledger.cell(id).await.unwrap().map_or(0, |cell| cell.accounted.cpu_us);
                let closing = closing(&new, self::cell(id, total), total - recorded);
                self.ledger.close_execution(&closing).await.unwrap();
                self.last = Some(closing);
                self.ended += 1;
            }
            Happening::End { .. } => {}
            Happening::CloseAgain(cpu_us) => {
                if let Some(mut closing) = self.last.clone() {
                    closing.report.cpu_us += cpu_us;
                    closing.report.egress_bytes += cpu_us;
                    closing.cell = cell(CellId::random(), cpu_us);
                    self.ledger.close_execution(&closing).await.unwrap();
                }
            }
            Happening::Daemon { cell, cpu_us } => self.cells[cell].1 += cpu_us,
            Happening::CellEnds(cell) => {
                let (id, total) = std::mem::replace(&mut self.cells[cell], (CellId::random(), 0));
                self.tombstones.push(tombstone(id, self.session.id, total));
                self.finals.insert(id, total);
            }
            Happening::Settle { acknowledged } => self.settle(acknowledged).await,
            Happening::Crash => self.crash().await,
        }
    }

    async fn settle(&mut self, acknowledged: bool) {
        for tombstone in &self.tombstones {
            self.ledger.settle_cell(tombstone, &Plan::default(), 20).await.unwrap();
        }
        if acknowledged {
            self.tombstones.clear();
        }
    }

    async fn crash(&mut self) {
        self.ledger = Ledger::open(self.dir.path(), LedgerSync::Process).await.unwrap();
        self.open.clear();
        for row in self.ledger.executions_open(self.session.id).await.unwrap() {
            let new = NewExecution {
                id: row.id,
                session: row.session,
                created_us: row.created_us,
                place: row.place,
            };
            let lost = Closing { status: ExecutionStatus::Lost, ..closing(&new, None, 0) };
            self.ledger.close_execution(&lost).await.unwrap();
            self.lost += 1;
        }
    }

    async fn check(mut self) {
        self.crash().await;
        for cell in 0..3 {
            self.happen(Happening::CellEnds(cell)).await;
        }
        self.settle(false).await;
        self.settle(true).await;
        let records = self.ledger.records(self.session.id, None, 10_000).await.unwrap().items;
        let recorded: u64 = records.iter().map(|record| record.used.cpu_us).sum();
        assert_eq!(recorded, self.finals.values().sum::<u64>(), "every microsecond once");
        let moved: u64 = records.iter().map(|record| record.used.bytes).sum();
        assert_eq!(moved, recorded, "every byte once");
        let executions = records.iter().filter(|record| record.kind == RecordKind::Execution).count();
        assert_eq!(executions, self.ended, "one record per execution that ended");
        if self.lost > 0 {
            let after = records.iter().filter(|record| record.estimated);
            assert!(after.clone().all(|record| record.used.cost_picos == 0), "what was lost is free");
        }
        self.ledger.close().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn records_add_up_to_the_final_counters(happenings in proptest::collection::vec(happening(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for happening in happenings {
                world.happen(happening).await;
            }
            world.check().await;
        });
    }
}

/// `cargo test -p anchorhold --release -- --ignored --nocapture figures`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures, promises nothing"]
async fn figures() {
    for sync in [LedgerSync::Process, LedgerSync::Power] {
        let dir = tempfile::tempdir_in(".").unwrap();
        let ledger = Ledger::open(dir.path(), sync).await.unwrap();
        let row = session_row();
        ledger.open_session(&row, None).await.unwrap();
        let id = CellId::random();
        let (mut open_us, mut close_us) = (Vec::new(), Vec::new());
        for total in 1..=2000 {
            let new = new_execution(row.id);
            let begun = Instant::now();
            ledger.open_execution(&new, None).await.unwrap();
            open_us.push(begun.elapsed().as_micros());
            let begun = Instant::now();
            ledger.close_execution(&closing(&new, cell(id, total), 1)).await.unwrap();
            close_us.push(begun.elapsed().as_micros());
        }
        let percentile = |values: &mut Vec<u128>, percent: usize| {
            values.sort_unstable();
            values[values.len() * percent / 100]
        };
        println!(
            "{sync:?}: open p50 {} p99 {} µs, close p50 {} p99 {} µs",
            percentile(&mut open_us, 50),
            percentile(&mut open_us, 99),
            percentile(&mut close_us, 50),
            percentile(&mut close_us, 99)
        );
        let done = std::sync::Arc::new(AtomicUsize::new(0));
        let begun = Instant::now();
        let clients: Vec<_> = (0..16)
            .map(|_| {
                let (ledger, done) = (ledger.clone(), done.clone());
                tokio::spawn(async move {
                    while begun.elapsed().as_secs() < 3 {
                        let row = session_row();
                        let (new, id) = (new_execution(row.id), CellId::random());
                        ledger.open_run(&row, &new, None).await.unwrap();
                        ledger.close_execution(&closing(&new, cell(id, 500), 500)).await.unwrap();
                        ledger.close_session(row.id, CloseReason::Client).await.unwrap();
                        ledger.settle_cell(&tombstone(id, row.id, 600), &Plan::default(), 9).await.unwrap();
                        ledger.end_session(row.id, CloseReason::Client, 9, None).await.unwrap();
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        println!("{sync:?}: {} whole runs/s with 16 clients", done.load(Ordering::Relaxed) / 3);
        ledger.close().await;
    }
}

/// security.md 92: whatever is missing of the last write, the ledger opens with everything before it, and what is closed
/// again is recorded once.
#[tokio::test]
async fn a_torn_end_costs_at_most_the_last_write() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), LedgerSync::Process).await.unwrap();
    let row = session_row();
    let (first, last) = (new_execution(row.id), new_execution(row.id));
    let id = CellId::random();
    ledger.open_run(&row, &first, None).await.unwrap();
    ledger.close_execution(&closing(&first, cell(id, 70), 70)).await.unwrap();
    ledger.open_execution(&last, None).await.unwrap();
    let log = dir.path().join("ledger.sqlite-wal");
    let before = std::fs::metadata(&log).unwrap().len();
    ledger.close_execution(&closing(&last, cell(id, 100), 30)).await.unwrap();
    let database = std::fs::read(dir.path().join("ledger.sqlite")).unwrap();
    let written = std::fs::read(&log).unwrap();
    let (begin, end) = (usize::try_from(before).unwrap(), written.len());
    assert!(begin < end, "the last write is in the log");
    let mut kept = 0;
    for cut in (begin..end).step_by(97).chain([begin + 1, end - 1, end]) {
        let torn = tempfile::tempdir().unwrap();
        std::fs::write(torn.path().join("ledger.sqlite"), &database).unwrap();
        std::fs::write(torn.path().join("ledger.sqlite-wal"), &written[..cut]).unwrap();
        let ledger = Ledger::open(torn.path(), LedgerSync::Process).await.unwrap();
        assert!(ledger.execution(row.id, first.id).await.unwrap().unwrap().ended_us.is_some());
        let ended = ledger.execution(row.id, last.id).await.unwrap().unwrap().ended_us.is_some();
        let records = ledger.records(row.id, None, 9).await.unwrap().items;
        assert_eq!(records.len(), 2 + 2 * usize::from(ended), "cut at {cut} of {end}");
        kept += usize::from(ended);
        // What a recovery does.
        ledger.close_execution(&closing(&last, cell(id, 100), 30)).await.unwrap();
        let records = ledger.records(row.id, None, 9).await.unwrap().items;
        assert_eq!(records.iter().map(|record| record.used.cpu_us).sum::<u64>(), 100, "cut at {cut}");
        assert_eq!(records.iter().map(|record| record.used.bytes).sum::<u64>(), 100, "cut at {cut}");
        ledger.close().await;
    }
    assert!(kept >= 1, "not even the whole log has the last write");
}
