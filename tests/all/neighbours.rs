//! Tenants beside each other on one machine.

use crate::Shared;
use crate::tenants::tenant;
use anchorhold_tests::{Client, Options, Server, host};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

tests!(
    a_hostile_neighbour_causes_no_errors,
    a_hostile_native_neighbour_causes_no_errors,
    a_crash_loop_disturbs_nobody,
    who_takes_all_processors_comes_last,
    floods_are_taken_at_their_tenants_rate,
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

/// Clients of one tenant, a process of its own. Elsewhere they would have a machine of their own: here they get of this
/// one what nobody else wants.
struct Attackers {
    process: Child,
    ran: Arc<AtomicUsize>,
    counting: JoinHandle<()>,
}

/// What makes this program be [`Attackers`].
pub const ATTACK: &str = "attack";
/// How many they are.
const ATTACKERS: usize = 16;

impl Attackers {
    fn start(hostile: &Client, attacks: &[Value]) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args([ATTACK, hostile.base(), hostile.key().context("a key")?])
            .arg(json!(attacks).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut told = process.stdout.take().context("stdout")?;
        let ran = Arc::new(AtomicUsize::new(0));
        let count = ran.clone();
        let counting = std::thread::spawn(move || {
            let mut ends = [0; 64];
            while let Ok(length @ 1..) = told.read(&mut ends) {
                count.fetch_add(length, Ordering::Relaxed);
            }
        });
        let attackers = Self { process, ran, counting };
        let end = Instant::now() + Duration::from_secs(30);
        while attackers.ran.load(Ordering::Relaxed) == 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(attackers)
    }

    /// How many attacks ran.
    fn stop(mut self) -> Result<usize> {
        drop(self.process.stdin.take());
        ensure!(self.process.wait()?.success(), "an attack was answered wrongly");
        self.counting.join().map_err(|_| anyhow::anyhow!("panicked"))?;
        Ok(self.ran.load(Ordering::Relaxed))
    }
}

/// Attacks until standard input ends; writes a byte for each attack that ran.
pub fn attack(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    rustix::process::setsid()?;
    // Sessions are what the kernel divides processors by, where it does.
    let _not_here = std::fs::write("/proc/self/autogroup", "19");
    rustix::process::nice(19)?;
    let (base, key) = (arguments.next().context("where")?, arguments.next().context("a key")?);
    let attacks: Vec<Value> = serde_json::from_str(&arguments.next().context("attacks")?)?;
    let client = Client::new(&base, Some(&key))?;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let attackers: Vec<_> = (0..ATTACKERS)
            .map(|n| {
                let (attack, client, over) = (&attacks[n % attacks.len()], &client, &over);
                scope.spawn(move || -> Result<()> {
                    while !over.load(Ordering::Relaxed) {
                        let answer = client.post("/v1/run", attack)?;
                        ensure!([200, 429, 503].contains(&answer.status), "{attack}: {}", answer.text());
                        if answer.status == 200 {
                            std::io::stdout().write_all(b".")?;
                            std::io::stdout().flush()?;
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
        over.store(true, Ordering::Relaxed);
        attackers.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow::anyhow!("panicked"))?)
    })
}

/// So many that a p99 is not the slowest of them.
const SESSIONS: usize = 300;

/// The clients of one tenant attack for as long as another one works, which meets no error; how many attacks ran.
fn beside(server: &Server, quotas: &Value, attacks: &[Value]) -> Result<usize> {
    let admin = server.client()?;
    let (_, hostile) = tenant(&admin, "hostile", quotas)?;
    let (_, victim) = tenant(&admin, "victim", &json!({}))?;
    work(&victim, 10)?;
    let alone = work(&victim, SESSIONS)?;
    let attackers = Attackers::start(&hostile, attacks)?;
    let beside = work(&victim, SESSIONS);
    let ran = attackers.stop()?;
    let beside = beside?;
    let p99 = |times: &[Duration]| times[times.len() * 99 / 100];
    println!("p99 alone {:?}, beside {ran} attacks {:?}", p99(&alone), p99(&beside));
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
        "cat /dev/zero | tail -c 1G",
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

/// What a control group weighs for the processors, in sixteenths of what is usual, as the kernel says it.
fn weight(group: &str) -> Result<u64> {
    let mut groups = host::cgroups(group).into_iter().filter(|path| path.ends_with(group));
    let weight = groups.find_map(|path| {
        let read = |(file, usual): (&str, u64)| {
            let weight: u64 = std::fs::read_to_string(path.join(file)).ok()?.trim().parse().ok()?;
            Some(weight * 16 / usual)
        };
        [("cpu.shares", 1024), ("cpu.weight", 100)].into_iter().find_map(read)
    });
    weight.context("no weight")
}

/// Whether the tenant that a cell is of comes last for the processors.
fn comes_last(server: &Server, cell: u32) -> Result<bool> {
    let groups = std::fs::read_to_string(format!("/proc/{cell}/cgroup"))?;
    let path = groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        (["cpu", "cpu,cpuacct", ""].contains(&controllers) && path.contains(&server.cgroup())).then_some(path)
    });
    let tenant: Vec<&str> = path.context("no group")?.trim_start_matches('/').split('/').take(2).collect();
    Ok(weight(&tenant.join("/"))? < 16)
}

/// A tenant that uses more than its share of the processors weighs less than others, until it has come down to it. The other
/// one never does. While nothing else runs, all together weigh less beside the host.
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
    // Who is taken first from the pool need not be the oldest.
    let cells = host::cell_processes(&server.cgroup());
    let others = cells.into_iter().find(|cell| *cell != own).context("another cell")?;
    ensure!(!comes_last(&server, own)?, "who has run little comes last");
    ensure!(!comes_last(&server, others)?, "the other one has run little, too");
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
    // Now nothing runs that does not come last, and then something does, and all groups weigh what they should beside the host.
    let all_until = |last: bool, run: &dyn Fn() -> Result<()>| -> Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while (weight(&server.cgroup())? < 16) != last {
            ensure!(Instant::now() < end, "all last is not {last}");
            run()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    all_until(true, &|| modest.execute(&session, "python", "1").map(drop))?;
    let pause = json!({"language": "python", "code": "import time; time.sleep(1)", "background": true});
    modest.post(&format!("/v1/sessions/{session}/executions"), &pause)?.expect(202);
    all_until(false, &|| Ok(()))?;
    all_until(true, &|| modest.execute(&session, "python", "1").map(drop))?;
    for session in begun {
        greedy.close(&session)?;
    }
    until(false)?;
    all_until(false, &|| Ok(()))?;
    server.stop()?;
    Ok(())
}

/// What the programs of a tenant say is taken at its rate, all of it; who else says something does not wait. A program that
/// waits to be heard ends in its time.
fn floods_are_taken_at_their_tenants_rate(_: &Shared) -> Result<()> {
    const RATE: usize = 64 << 10;
    let server =
        Server::start(Options::default().with("rate", "output_bytes_per_second", &RATE.to_string()))?;
    let admin = server.client()?;
    let (_, loud) = tenant(&admin, "loud", &json!({}))?;
    let (_, quiet) = tenant(&admin, "quiet", &json!({}))?;
    for (runtime, name) in [("wasm", "python"), ("native", "python"), ("native", "bash")] {
        let session = loud.session(&json!({"runtime": runtime}))?;
        crate::native::warmed(&loud, &session)?;
        // What may be said at once is said; what the rate gives in three seconds is left, a last piece of which nobody waits
        // for.
        let (all, code) = match name {
            "python" => (5 * RATE, format!("print('x' * {}, end='')", 5 * RATE)),
            _ => (5 * RATE, format!("head -c {} /dev/zero | tr '\\0' x", 5 * RATE)),
        };
        let (begun, answer) = (Instant::now(), loud.execute(&session, name, &code)?);
        let took = begun.elapsed();
        assert_eq!(
            (&answer["status"], answer["stdout"].as_str().map(str::len)),
            (&json!("succeeded"), Some(all)),
            "{runtime} {name}"
        );
        ensure!((1500..8000).contains(&took.as_millis()), "{runtime} {name}: {took:?}");
        let endless = match name {
            "python" => "while True: print('x' * 1000)",
            _ => "while :; do printf '%01000d' 1; done",
        };
        if name == "python" {
            loud.execute(&session, name, "y = 41")?;
        }
        let flood = json!({"language": name, "code": endless, "timeout_seconds": 3});
        let running = std::thread::spawn({
            let (loud, session) = (loud.clone(), session.clone());
            move || loud.execute_with(&session, &flood)
        });
        std::thread::sleep(Duration::from_millis(300));
        let begun = Instant::now();
        let said = json!({"language": "javascript", "code": "'x'.repeat(60000)"});
        assert_eq!(quiet.post("/v1/run", &said)?.expect(200)["status"], "succeeded");
        // Files are not said by programs.
        loud.get(&format!("/v1/sessions/{session}/files"))?.expect(200);
        ensure!(begun.elapsed() < Duration::from_secs(2), "{runtime} {name}: {:?}", begun.elapsed());
        let answer = running.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        assert_eq!(answer["status"], "timed_out", "{runtime} {name}");
        // A busy machine may take longer over that than a soft stop has time.
        if name == "python" && answer["state_lost"] == false {
            assert_eq!(loud.execute(&session, name, "y + 1")?["results"][0]["mime"]["text/plain"], "42");
        }
        loud.close(&session)?;
    }
    server.stop()?;
    Ok(())
}
