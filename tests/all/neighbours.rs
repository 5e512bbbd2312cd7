//! Tenants beside each other on one machine.

use crate::Shared;
use crate::tenants::tenant;
use anchorhold_tests::{Client, Options, Server, host};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::Write as _;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

tests!(
    a_hostile_neighbour_causes_no_errors,
    a_hostile_native_neighbour_causes_no_errors,
    a_crash_loop_disturbs_nobody,
    who_takes_all_processors_comes_last,
);

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

/// One attack at a time: two servers whose tenants take all they may have would take it from each other.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sixteen clients of one tenant attack for as long as another one works, which meets no error; how many attacks ran.
fn beside(server: &Server, quotas: &Value, attacks: &[Value]) -> Result<usize> {
    let admin = server.client()?;
    let (_, hostile) = tenant(&admin, "hostile", quotas)?;
    let (_, victim) = tenant(&admin, "victim", &json!({}))?;
    let alone = work(&victim, 40)?;
    let (stop, ran) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let attackers: Vec<_> = (0..16)
        .map(|n| {
            let attack = attacks[n % attacks.len()].clone();
            let (hostile, stop, ran) = (hostile.clone(), stop.clone(), ran.clone());
            std::thread::spawn(move || -> Result<()> {
                // Elsewhere these clients would have a machine of their own.
                rustix::process::nice(19)?;
                while !stop.load(Ordering::Relaxed) {
                    let answer = hostile.post("/v1/run", &attack)?;
                    ensure!([200, 429, 503].contains(&answer.status), "{attack}: {}", answer.text());
                    ran.fetch_add(usize::from(answer.status == 200), Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    let end = Instant::now() + Duration::from_secs(30);
    while ran.load(Ordering::Relaxed) == 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    let beside = work(&victim, 40);
    stop.store(true, Ordering::Relaxed);
    for attacker in attackers {
        attacker.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    }
    let (beside, ran) = (beside?, ran.load(Ordering::Relaxed));
    let slowest = |times: &[Duration]| times[times.len() * 99 / 100];
    println!("p99 alone {:?}, beside {ran} attacks {:?}", slowest(&alone), slowest(&beside));
    Ok(ran)
}

/// security.md 67: loops, memory bombs, floods and crashes of one tenant, with as many at once as it may have; another's
/// sessions and executions all succeed. Times are printed, not judged: the machine is whatever it is.
fn a_hostile_neighbour_causes_no_errors(_: &Shared) -> Result<()> {
    let _alone = alone();
    let server = Server::start(Options::default())?;
    let limits = json!({"memory_bytes": 128 << 20});
    let attacks = HOSTILE.map(|(language, code)| {
        json!({"language": language, "code": code, "timeout_seconds": 1, "limits": limits})
    });
    let ran = beside(&server, &json!({"concurrent_executions": 12}), &attacks)?;
    ensure!(ran >= 12, "there was no attack");
    server.stop()?;
    Ok(())
}

/// security.md 67: the same by native programs, which reach more: processes, files, memory, output, the network.
fn a_hostile_native_neighbour_causes_no_errors(_: &Shared) -> Result<()> {
    let _alone = alone();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let host = listener.local_addr()?.to_string();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            // Whoever floods may be gone.
            let _gone =
                connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    });
    let private = format!("[\"{host}\"]");
    let server = Server::start(Options::default().with("egress", "allow_private", &private))?;
    let fetch = format!("while :; do curl -s -x http://127.0.0.1:3128 http://{host}/; done");
    let attacks = [
        "while :; do :; done",
        "f() { f | f & }; f; sleep 5",
        "while :; do head -c 4M /dev/zero > $RANDOM || rm -f *; done",
        "tail -c 1G /dev/zero",
        "cat /dev/zero",
        &fetch,
    ]
    .map(|line| {
        json!({"command": ["bash", "-c", line], "timeout_seconds": 1,
            "limits": {"memory_bytes": 128 << 20, "disk_bytes": 32 << 20, "processes": 64},
            "network": {"mode": "allow", "hosts": [host]}})
    });
    let ran = beside(&server, &json!({"concurrent_executions": 12}), &attacks)?;
    ensure!(ran >= 6, "there was no attack");
    server.stop()?;
    Ok(())
}

/// security.md 68: a thousand crashes a minute are what this tenant may have, and no more; the other's creates succeed.
fn a_crash_loop_disturbs_nobody(_: &Shared) -> Result<()> {
    const CRASHES_PER_SECOND: usize = 17;
    let _alone = alone();
    let server = Server::start(Options::default().evil())?;
    let crash = json!({"language": "python", "code": "segv"});
    let quotas = json!({"executions_per_second": CRASHES_PER_SECOND});
    let admin = server.client()?;
    let (_, hostile) = tenant(&admin, "hostile", &quotas)?;
    let (_, victim) = tenant(&admin, "victim", &json!({}))?;
    let over = Arc::new(AtomicBool::new(false));
    let crashing = std::thread::spawn({
        let over = over.clone();
        move || -> Result<(usize, usize, Duration)> {
            let (begun, mut crashed, mut refused) = (Instant::now(), 0, 0);
            while !over.load(Ordering::Relaxed) {
                let answer = hostile.post("/v1/run", &crash)?;
                match answer.status {
                    200 => {
                        assert_eq!(answer.json()["error"]["name"], "INTERPRETER_DIED", "{}", answer.text());
                        crashed += 1;
                    }
                    429 => refused += 1,
                    _ => anyhow::bail!("{}", answer.text()),
                }
            }
            Ok((crashed, refused, begun.elapsed()))
        }
    });
    let end = Instant::now() + Duration::from_secs(6);
    let mut made = 0;
    while Instant::now() < end {
        let session = victim.session(&json!({}))?;
        let answer = victim.execute(&session, "python", "sockets")?;
        ensure!(answer["status"] == "succeeded", "{answer}");
        victim.close(&session)?;
        made += 1;
    }
    over.store(true, Ordering::Relaxed);
    let (crashed, refused, took) = crashing.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    println!("{crashed} crashes and {refused} refusals in {took:?}; {made} sessions of another tenant");
    ensure!(made > 0 && crashed >= CRASHES_PER_SECOND, "{made} made, {crashed} crashed");
    let most = CRASHES_PER_SECOND * (usize::try_from(took.as_secs())? + 2);
    ensure!(crashed <= most && refused > 0, "{crashed} crashes in {took:?}, {refused} refused");
    server.stop()?;
    Ok(())
}

/// Whether the tenant that a cell is of comes last for the processors, as the kernel says it.
fn comes_last(server: &Server, cell: u32) -> Result<bool> {
    let groups = std::fs::read_to_string(format!("/proc/{cell}/cgroup"))?;
    let path = groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        (["cpu", "cpu,cpuacct", ""].contains(&controllers) && path.contains(&server.cgroup())).then_some(path)
    });
    let tenant: Vec<&str> = path.context("no group")?.trim_start_matches('/').split('/').take(2).collect();
    let tenant = tenant.join("/");
    let mut groups = host::cgroups(&tenant).into_iter().filter(|group| group.ends_with(&tenant));
    let idle = groups.find_map(|group| std::fs::read_to_string(group.join("cpu.idle")).ok());
    Ok(idle.context("no cpu.idle")?.trim() == "1")
}

/// A tenant that uses more than its share of the processors runs when no other wants to, until it has come down to it. The
/// other one never does.
fn who_takes_all_processors_comes_last(_: &Shared) -> Result<()> {
    let _alone = alone();
    let server = Server::start(Options::default())?;
    let admin = server.client()?;
    let (_, modest) = tenant(&admin, "modest", &json!({}))?;
    let (_, greedy) = tenant(&admin, "greedy", &json!({}))?;
    let session = modest.session(&json!({}))?;
    modest.execute(&session, "python", "1")?;
    let own = *host::cell_processes(&server.cgroup()).first().context("a cell")?;
    let greedy_session = greedy.session(&json!({}))?;
    greedy.execute(&greedy_session, "python", "1")?;
    let others = *host::cell_processes(&server.cgroup()).last().context("a cell")?;
    ensure!(own != others && !comes_last(&server, own)? && !comes_last(&server, others)?);
    let endless =
        json!({"language": "python", "code": "while True: pass", "timeout_seconds": 60, "background": true});
    let mut begun = Vec::new();
    for _ in 0..std::thread::available_parallelism()?.get() {
        let session = greedy.session(&json!({}))?;
        greedy.post(&format!("/v1/sessions/{session}/executions"), &endless)?.expect(202);
        begun.push(session);
    }
    let until = |last: bool| -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while comes_last(&server, others)? != last {
            ensure!(Instant::now() < end, "{last}: nothing changes");
            ensure!(!comes_last(&server, own)?, "who takes little comes last");
            modest.execute(&session, "python", "1")?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    };
    until(true)?;
    for session in begun {
        greedy.close(&session)?;
    }
    until(false)?;
    server.stop()?;
    Ok(())
}
