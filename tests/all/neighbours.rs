//! Tenants beside each other on one machine.

use crate::Shared;
use crate::tenants::tenant;
use anchorhold_tests::{Client, Options, Server};
use anyhow::{Result, ensure};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

tests!(a_hostile_neighbour_causes_no_errors);

const HOSTILE: [(&str, &str); 5] = [
    ("python", "while True: pass"),
    ("javascript", "for (;;) {}"),
    ("python", "x = []\nwhile True: x.append(bytearray(1 << 20))"),
    ("python", "while True: print('x' * 1000)"),
    ("javascript", "let f = () => f() + f(); f()"),
];

/// A session with an execution in it, and a run: `count` of each, with the time that each pair took.
fn work(client: &Client, count: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(count);
    for n in 0..count {
        let begun = Instant::now();
        let session = client.session(&json!({}))?;
        let answer = client.execute(&session, "python", &format!("{n} + 1"))?;
        ensure!(answer["status"] == "succeeded", "{answer}");
        client.close(&session)?;
        let run = json!({"language": "javascript", "code": "6 * 7"});
        let answer = client.post("/v1/run", &run)?;
        ensure!(answer.status == 200 && answer.json()["status"] == "succeeded", "{}", answer.text());
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

/// security.md 67 and 68: loops, memory bombs, floods and crashes of one tenant, with as many at once as it may have;
/// another's sessions and executions all succeed. Times are printed, not judged: the machine is whatever it is.
fn a_hostile_neighbour_causes_no_errors(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default())?;
    let admin = server.client()?;
    let (_, hostile) = tenant(&admin, "hostile", &json!({"concurrent_executions": 12}))?;
    let (_, victim) = tenant(&admin, "victim", &json!({}))?;
    let alone = work(&victim, 40)?;
    let (stop, attacks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let attackers: Vec<_> = (0..16)
        .map(|n| {
            let (hostile, stop, attacks) = (hostile.clone(), stop.clone(), attacks.clone());
            std::thread::spawn(move || -> Result<()> {
                let (language, code) = HOSTILE[n % HOSTILE.len()];
                let limits = json!({"memory_bytes": 128 << 20});
                let attack =
                    json!({"language": language, "code": code, "timeout_seconds": 1, "limits": limits});
                while !stop.load(Ordering::Relaxed) {
                    let answer = hostile.post("/v1/run", &attack)?;
                    ensure!([200, 429, 503].contains(&answer.status), "{}", answer.text());
                    attacks.fetch_add(usize::from(answer.status == 200), Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    let beside = work(&victim, 40);
    stop.store(true, Ordering::Relaxed);
    for attacker in attackers {
        attacker.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    }
    let beside = beside?;
    ensure!(attacks.load(Ordering::Relaxed) >= 12, "there was no attack");
    let slowest = |times: &[Duration]| times[times.len() * 99 / 100];
    println!("p99 alone {:?}, beside a hostile tenant {:?}", slowest(&alone), slowest(&beside));
    server.stop()?;
    Ok(())
}
