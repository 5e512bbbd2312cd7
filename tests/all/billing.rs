//! What was used, and that everything is billed once.

use crate::Shared;
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::HashSet;

tests!(
    every_execution_has_one_record,
    busy_time_is_measured,
    refused_and_lost_work_is_free,
    the_same_key_runs_once,
    the_same_key_with_other_work_conflicts,
    concurrent_retries_share_one_run,
    usage_is_grouped,
    a_cell_cannot_shorten_its_bill,
);

fn records(client: &anchorhold_tests::Client, session: &str) -> Result<Vec<Value>> {
    let usage = client.get(&format!("/v1/sessions/{session}/usage"))?.expect(200);
    let list = usage["records"].as_array().or_else(|| usage["items"].as_array());
    Ok(list.cloned().unwrap_or_default())
}

fn every_execution_has_one_record(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let mut ids = HashSet::new();
    for n in 0..5 {
        let answer = client.execute(&session, "python", &format!("{n}"))?;
        ids.insert(answer["id"].as_str().unwrap_or_default().to_owned());
    }
    let closed = client.close(&session)?;
    let records = records(&client, &session)?;
    let executions: Vec<&Value> = records.iter().filter(|r| r["kind"] == "execution").collect();
    assert_eq!(executions.len(), 5);
    let recorded: HashSet<String> =
        executions.iter().filter_map(|r| r["execution_id"].as_str().map(str::to_owned)).collect();
    assert_eq!(recorded, ids);
    let total: u128 = records.iter().filter_map(|r| r["cost_picos"].as_str()?.parse::<u128>().ok()).sum();
    assert!(total > 0, "{records:?}");
    assert_eq!(closed["usage"]["cost_picos"], total.to_string(), "{closed}");
    Ok(())
}

/// The meter against the program's own clock: within 2 ms or 1 % for CPU, 20 ms for wall (DESIGN, numbers).
fn busy_time_is_measured(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    client.execute(&session, "python", "import time")?;
    let code = "start = time.perf_counter()\nwhile time.perf_counter() - start < 0.5: pass\ntime.perf_counter() - start";
    // Other processes take the processor away now and then: of five tries one is as exact as promised. CPU is at most the
    // wall time, and most of it.
    let busy = |wall: u64, cpu: u64| wall < 520_000 && cpu <= wall + 2_000 && cpu > 250_000;
    let asleep = |wall: u64, cpu: u64| wall < 320_000 && cpu < 20_000;
    let measured = |code: &str, least: u64, exact: &dyn Fn(u64, u64) -> bool| -> Result<()> {
        let mut tries = Vec::new();
        for _ in 0..5 {
            let begun = std::time::Instant::now();
            let answer = client.execute(&session, "python", code)?;
            let took = u64::try_from(begun.elapsed().as_micros())?;
            let usage = |name: &str| answer["usage"][name].as_u64().unwrap_or(0);
            let (wall, cpu) = (usage("wall_us"), usage("cpu_us"));
            assert!((least..=took).contains(&wall), "{wall} of {took}: {answer}");
            if exact(wall, cpu) {
                return Ok(());
            }
            tries.push((wall, cpu));
        }
        anyhow::bail!("{code}: {tries:?}")
    };
    measured(code, 500_000, &busy)?;
    measured("time.sleep(0.3)", 300_000, &asleep)?;
    client.close(&session)?;
    Ok(())
}

fn refused_and_lost_work_is_free(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    client
        .post(&format!("/v1/sessions/{session}/executions"), &json!({"language": "cobol", "code": "1"}))?
        .problem(422);
    assert_eq!(records(&client, &session)?, Vec::<Value>::new());
    client.close(&session)?;
    Ok(())
}

/// security.md 93, without a crash (restart.rs has it with one).
fn the_same_key_runs_once(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    client.execute(&session, "python", "n = 0")?;
    let path = format!("/v1/sessions/{session}/executions");
    let body = json!({"language": "python", "code": "n += 1\nn"});
    let first = client.post_once(&path, "key-1", &body)?.expect(200);
    let second = client.post_once(&path, "key-1", &body)?.expect(200);
    assert_eq!(first, second);
    assert_eq!(client.execute(&session, "python", "n")?["results"][0]["mime"]["text/plain"], "1");
    assert_eq!(records(&client, &session)?.iter().filter(|r| r["kind"] == "execution").count(), 3);
    let made = client.post_once("/v1/sessions", "key-session", &json!({"name": "once"}))?.expect(201);
    let again = client.post_once("/v1/sessions", "key-session", &json!({"name": "once"}))?.expect(201);
    assert_eq!(made["id"], again["id"]);
    client.close(made["id"].as_str().unwrap_or_default())?;
    client.close(&session)?;
    Ok(())
}

fn the_same_key_with_other_work_conflicts(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let path = format!("/v1/sessions/{session}/executions");
    client.post_once(&path, "key-2", &json!({"language": "python", "code": "1"}))?.expect(200);
    let other = client.post_once(&path, "key-2", &json!({"language": "python", "code": "2"}))?;
    assert_eq!(other.problem(409), "idempotency_conflict");
    // What is made and no execution is made once, too: a second one of the name would be a conflict.
    for (path, body) in [
        (format!("/v1/sessions/{session}/contexts"), json!({"name": "once", "language": "python"})),
        ("/v1/tenants".to_owned(), json!({"name": "made-once"})),
    ] {
        let first = client.post_once(&path, "key-m", &body)?.expect(201);
        assert_eq!(client.post_once(&path, "key-m", &body)?.expect(201), first);
        let mut other = body.clone();
        other["name"] = json!("another");
        assert_eq!(client.post_once(&path, "key-m", &other)?.problem(409), "idempotency_conflict");
        assert_eq!(client.post(&path, &body)?.problem(409), "conflict");
    }
    // A refusal is not remembered.
    client.post_once(&path, "key-3", &json!({"language": "cobol", "code": "1"}))?.problem(422);
    client.post_once(&path, "key-3", &json!({"language": "python", "code": "1"}))?.expect(200);
    client.close(&session)?;
    Ok(())
}

fn concurrent_retries_share_one_run(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let path = format!("/v1/sessions/{session}/executions");
    client.execute(&session, "python", "import time\nruns = 0")?;
    let body = json!({"language": "python", "code": "runs += 1\ntime.sleep(0.2)\nruns"});
    let racers: Vec<_> = (0..8)
        .map(|_| {
            let (client, path, body) = (client.clone(), path.clone(), body.clone());
            std::thread::spawn(move || client.post_once(&path, "shared", &body))
        })
        .collect();
    for racer in racers {
        let answer = racer.join().map_err(|_| anyhow::anyhow!("panicked"))??.expect(200);
        assert_eq!(answer["results"][0]["mime"]["text/plain"], "1");
    }
    client.close(&session)?;
    Ok(())
}

fn usage_is_grouped(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    client.post("/v1/run", &json!({"language": "javascript", "code": "1"}))?.expect(200);
    for group in ["session", "day", "kind"] {
        let usage = client.get(&format!("/v1/usage?group_by={group}"))?.expect(200);
        assert!(usage["items"].as_array().is_some_and(|i| !i.is_empty()), "{group}: {usage}");
    }
    assert_eq!(client.get("/v1/usage?group_by=colour")?.problem(422), "invalid_request");
    assert!(client.get("/v1/prices")?.expect(200)["version"].is_string());
    Ok(())
}

/// security.md 101: the cell claims one microsecond for what took half a second.
fn a_cell_cannot_shorten_its_bill(_: &Shared) -> Result<()> {
    let server = anchorhold_tests::Server::start(anchorhold_tests::Options::default().evil())?;
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    let answer = client.execute(&session, "python", &format!("memory {}", 600u64 << 20))?;
    let cpu = answer["usage"]["cpu_us"].as_u64().unwrap_or(0);
    let wall = answer["usage"]["wall_us"].as_u64().unwrap_or(0);
    assert!(cpu > 20_000 && wall > 20_000, "{answer}");
    assert!(answer["usage"]["memory_peak_bytes"].as_u64().unwrap_or(0) > 500 << 20, "{answer}");
    client.close(&session)?;
    server.stop()?;
    Ok(())
}
