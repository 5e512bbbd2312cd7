//! Fail closed: each step of building a cell is made to fail, and no cell comes of it. And what the host lacks is
//! said, not hidden, and not the end of the service.

use crate::Shared;
use anchorhold_tests::{Client, Options, Server, host};
use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;
use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

tests!(
    every_missing_wall_refuses_the_cell,
    a_full_disk_refuses_and_what_ran_is_recorded_later,
    cells_are_the_kernels_first_choice,
    a_cell_that_is_not_locked_in_time_is_no_cell,
    there_are_no_more_cells_than_the_operator_allows,
    without_descriptors_it_refuses_and_recovers,
    without_memory_it_refuses_or_ends_and_recovers,
    processes_that_are_stopped_go_on,
);

fn every_missing_wall_refuses_the_cell(_: &Shared) -> Result<()> {
    use anchorhold_jail::fault::{BROWSER_STEPS, NATIVE_STEPS, PROGRAM_STEPS, STEPS};
    for step in STEPS.iter().chain(PROGRAM_STEPS).chain(NATIVE_STEPS).chain(BROWSER_STEPS) {
        let server = Server::start(Options::default().fault(step))?;
        let client = server.client()?;
        if STEPS.contains(step) {
            let run = client.post("/v1/run", &json!({"language": "javascript", "code": "1"}))?;
            assert_eq!(run.problem(503), "isolation_unavailable", "{step}: {}", run.text());
        }
        if !NATIVE_STEPS.contains(step) {
            let session = client.session(&json!({"browser": {}}))?;
            let actions = json!({"actions": [{"type": "snapshot"}]});
            let act = || client.post(&format!("/v1/sessions/{session}/browser/actions"), &actions);
            let mut run = act()?;
            // On a busy machine it takes long to load what they are forked from.
            for _ in 0..10 {
                if run.json()["code"] == "capacity" {
                    run = act()?;
                }
            }
            assert_eq!(run.problem(503), "isolation_unavailable", "{step}, browser: {}", run.text());
        }
        // The zygote's own steps are the same; to wait for a Python that never comes takes long.
        if !step.starts_with("zygote_") && !BROWSER_STEPS.contains(step) {
            let run = client.post("/v1/run", &json!({"command": ["true"]}))?;
            assert_eq!(run.problem(503), "isolation_unavailable", "{step}, native: {}", run.text());
        }
        // A refused cell is killed at once, and gone a moment later.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !host::cell_processes(&server.cgroup()).is_empty() {
            assert!(
                std::time::Instant::now() < end,
                "{step} left {:?}",
                host::cell_processes(&server.cgroup())
            );
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        server.stop()?;
    }
    Ok(())
}

/// A file system of its own size over a folder, for a test's time.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Over `folder`, whose files and owner it takes over.
    fn over(folder: &Path, bytes: u64) -> Result<Self> {
        let owner = std::fs::metadata(folder)?;
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            files.push((std::fs::read(&path)?, path));
        }
        let options = std::ffi::CString::new(format!("size={bytes},mode=700"))?;
        mount("small", folder, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, &*options)?;
        let disk = Self(folder.to_owned());
        chown(folder, Some(owner.uid()), Some(owner.gid()))?;
        for (content, path) in files {
            std::fs::write(&path, content)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            chown(&path, Some(owner.uid()), Some(owner.gid()))?;
        }
        Ok(disk)
    }

    fn fill(&self) -> Result<()> {
        let filled = std::fs::write(self.0.join("filler"), vec![0; 64 << 20]);
        ensure!(filled.is_err(), "it took more than it has");
        Ok(())
    }

    fn free(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _busy = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// security.md 97 (ENOSPC): no execution begins that could not be recorded; one that runs is recorded when there is room.
fn a_full_disk_refuses_and_what_ran_is_recorded_later(_: &Shared) -> Result<()> {
    let mut server = Server::start(Options::default())?;
    server.kill()?;
    let disk = SmallDisk::over(&server.data_dir().join("ledger"), 8 << 20)?;
    server.launch()?;
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    let path = format!("/v1/sessions/{session}/executions");
    let slow =
        json!({"language": "python", "code": "import time\ntime.sleep(1.5)\n6 * 7", "background": true});
    let slow = client.post(&path, &slow)?.expect(202);
    disk.fill()?;
    let end = Instant::now() + Duration::from_secs(10);
    // What SQLite has allocated already may take a few more.
    let refused = loop {
        let answer = client.post("/v1/run", &json!({"language": "javascript", "code": "1"}))?;
        if answer.status != 200 {
            break answer;
        }
        ensure!(Instant::now() < end, "a full disk takes everything");
    };
    assert_eq!(refused.problem(503), "ledger_unavailable");
    assert!(refused.header("retry-after").is_some());
    std::thread::sleep(Duration::from_secs(2));
    let id = slow["id"].as_str().context("id")?;
    // What is there can be read.
    client.get(&format!("/v1/sessions/{session}"))?.expect(200);
    disk.free()?;
    let end = Instant::now() + Duration::from_secs(15);
    let closed = loop {
        let now = client.get(&format!("{path}/{id}"))?.expect(200);
        if now["status"] != "running" {
            break now;
        }
        ensure!(Instant::now() < end, "it is not recorded: {now}");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(
        (&closed["status"], &closed["results"][0]["mime"]["text/plain"]),
        (&json!("succeeded"), &json!("42"))
    );
    client.post("/v1/run", &json!({"language": "javascript", "code": "1"}))?.expect(200);
    let usage = client.get(&format!("/v1/sessions/{session}/usage"))?.expect(200);
    let records = usage["items"].as_array().context("items")?;
    assert_eq!(records.iter().filter(|record| record["execution_id"] == id).count(), 1, "{usage}");
    client.close(&session)?;
    // Before the folder goes; the server holds what it has open.
    drop(disk);
    server.stop()?;
    Ok(())
}

/// security.md 97: when the host's memory ends, the kernel takes a cell before it takes the API or the warden.
fn cells_are_the_kernels_first_choice(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default())?;
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    client.execute(&session, "python", "1")?;
    let score = |pid: u32| -> Result<i32> {
        Ok(std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?.trim().parse()?)
    };
    let cells = host::cell_processes(&server.cgroup());
    ensure!(!cells.is_empty());
    for cell in cells {
        // A pooled one may have gone meanwhile.
        ensure!(score(cell).unwrap_or(500) == 500, "cell {cell}");
    }
    for pid in server.warden_pids().into_iter().chain([server.pid()]) {
        ensure!(score(pid)? <= 0, "{pid}: {}", score(pid)?);
    }
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

/// On a machine that is too busy a cell does not come to lock itself in its two seconds. That is a refusal for want of
/// room, never a program that failed; and the next one runs.
fn a_cell_that_is_not_locked_in_time_is_no_cell(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default().with("pool", "wasm", "2"))?;
    let client = server.client()?;
    let run = json!({"language": "javascript", "code": "6 * 7"});
    client.post("/v1/run", &run)?.expect(200);
    let signal = |cells: &[u32], signal| {
        for cell in cells {
            let pid = rustix::process::Pid::from_raw(cell.cast_signed()).context("a process id")?;
            // One that was taken and killed meanwhile is gone.
            let _gone = rustix::process::kill_process(pid, signal);
        }
        anyhow::Ok(())
    };
    let stopped = host::waiting_cells(&server.cgroup());
    ensure!(stopped.len() >= 2, "{stopped:?}");
    signal(&stopped, rustix::process::Signal::STOP)?;
    let begun = Instant::now();
    let refused = client.post("/v1/run", &run)?;
    assert_eq!(refused.problem(503), "capacity", "{}", refused.text());
    assert!(refused.header("retry-after").is_some() && begun.elapsed() < Duration::from_secs(5));
    signal(&stopped, rustix::process::Signal::CONT)?;
    let answer = client.post("/v1/run", &run)?.expect(200);
    assert_eq!(answer["results"][0]["mime"]["text/plain"], "42");
    server.stop()?;
    Ok(())
}

/// Also of those that are made for one session, as native ones are after its first.
fn there_are_no_more_cells_than_the_operator_allows(_: &Shared) -> Result<()> {
    const MOST: usize = 10;
    let options =
        Options::default().with("warden", "cells_max", &MOST.to_string()).with("pool", "native", "1");
    let server = Server::start(options.with("pool", "wasm", "1").with("pool", "files", "1"))?;
    let client = server.client()?;
    let session = crate::native::session(&client)?;
    let path = format!("/v1/sessions/{session}/executions");
    let cells = || {
        let groups = host::cgroups(&server.cgroup());
        let names = groups.iter().filter_map(|path| path.file_name()?.to_str());
        names.filter(|name| name.starts_with("c-")).collect::<BTreeSet<_>>().len()
    };
    let mut ran = 0;
    let refused = loop {
        ensure!(ran < MOST, "nobody is refused");
        let context = format!("c{ran}");
        let answer = client.post(&path, &json!({"language": "bash", "context": context, "code": "true"}))?;
        ensure!(cells() <= MOST, "{} cells", cells());
        if answer.status != 200 {
            break answer;
        }
        ran += 1;
    };
    assert_eq!(refused.problem(503), "capacity", "{}", refused.text());
    ensure!(ran > 0, "not even one");
    client.close(&session)?;
    let session = crate::native::session(&client)?;
    assert_eq!(client.execute(&session, "bash", "echo again")?["stdout"], "again\n");
    server.stop()?;
    Ok(())
}

/// What a process may have at most from now on, of one of prlimit(1)'s resources. Root may not say so of the API here,
/// which is another user.
fn allow(pid: u32, resource: &str, most: &str) -> Result<()> {
    let (pid, most) = (pid.to_string(), format!("--{resource}={most}:"));
    let of = |field| host::status(pid.parse().unwrap_or(0), field).context("no such process");
    let first = |ids: String| ids.split_whitespace().next().unwrap_or_default().to_owned();
    let (user, group) = (first(of("Uid")?), first(of("Gid")?));
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user, "--regid", &group, "--clear-groups", "prlimit", "--pid", &pid, &most]);
    ensure!(command.status()?.success(), "{command:?}");
    Ok(())
}

/// security.md 97 (EMFILE): what needs a descriptor that a process may not have is refused as that. No session is lost by
/// it, and it is over when its cause is.
fn without_descriptors_it_refuses_and_recovers(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default())?;
    let client = server.client()?;
    let kept = client.session(&json!({}))?;
    client.execute(&kept, "python", "x = 41")?;
    let run = json!({"language": "javascript", "code": "6 * 7"});
    let warden = server.warden_pid().context("the warden")?;
    for (name, pid) in [("api", server.pid()), ("warden", warden)] {
        let mut refused = 0;
        for more in [1, 2, 4, 8] {
            let used = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
            allow(pid, "nofile", &(used + more).to_string())?;
            let mut sessions = Vec::new();
            for _ in 0..6 {
                let session = client.session(&json!({}))?;
                let path = format!("/v1/sessions/{session}/executions");
                sessions.push(session);
                let answer = client.post(&path, &run)?;
                let told = answer.json();
                let ran = answer.status == 200 && told["status"] == "succeeded";
                ensure!(ran || answer.status == 503, "{name} with {more} more: {}", answer.text());
                refused += usize::from(!ran);
            }
            allow(pid, "nofile", "20000")?;
            for session in sessions {
                client.close(&session)?;
            }
        }
        ensure!(refused > 0, "{name}: nothing was refused");
        soon_runs(&client, &run)?;
        remembers(&client, &kept).with_context(|| name.to_owned())?;
    }
    client.close(&kept)?;
    server.stop()?;
    Ok(())
}

/// security.md 97 (ENOMEM): the API or the warden that gets no more memory refuses, or ends as if it were killed. When there
/// is memory again, everything goes on; a session is lost with its warden alone, and no execution is billed twice.
fn without_memory_it_refuses_or_ends_and_recovers(_: &Shared) -> Result<()> {
    let mut server = Server::start(Options::default())?;
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    client.execute(&session, "python", "x = 41")?;
    let ended = api_without_memory(&mut server, &client)?;
    println!("the API {}", if ended { "ended" } else { "went on" });
    if ended {
        server.launch()?;
    }
    let client = server.client()?;
    remembers(&client, &session)?;
    let usage = client.get(&format!("/v1/sessions/{session}/usage?limit=1000"))?.expect(200);
    let records = usage["items"].as_array().context("items")?;
    let executions = client.get(&format!("/v1/sessions/{session}/executions?limit=1000"))?.expect(200);
    for execution in executions["items"].as_array().context("items")? {
        let of_it = records.iter().filter(|record| record["execution_id"] == execution["id"]).count();
        ensure!(of_it == usize::from(execution["status"] != "lost"), "{execution}: {usage}");
    }

    let ended = warden_without_memory(&server, &client)?;
    println!("the warden {}", if ended { "ended" } else { "went on" });
    if ended {
        let lost = client.get(&format!("/v1/sessions/{session}"))?.expect(200);
        assert_eq!((&lost["status"], &lost["close_reason"]), (&json!("closed"), &json!("lost")));
        ensure!(host::cell_processes(session.trim_start_matches("ses_")).is_empty());
    } else {
        remembers(&client, &session)?;
    }
    server.stop()?;
    Ok(())
}

/// Twelve floods at an API that gets no more memory. Afterwards it has it again, or has ended, which is the answer.
fn api_without_memory(server: &mut Server, client: &Client) -> Result<bool> {
    let flood = json!({"language": "python", "code": "for _ in range(4000): print('x' * 4095)"});
    allow(server.pid(), "as", "1")?;
    let floods: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..12).map(|_| scope.spawn(|| client.post("/v1/run", &flood))).collect();
        clients
            .into_iter()
            .map(|one| one.join().map_err(|_| anyhow::anyhow!("panicked")))
            .collect::<Result<_>>()
    })?;
    let (mut refused, mut cut) = (0, 0);
    for answer in floods {
        match answer {
            // What it had was enough for this one.
            Ok(answer) if answer.status == 200 => {}
            Ok(answer) => refused += answer.problem(503).len().min(1),
            Err(_) => cut += 1,
        }
    }
    let end = Instant::now() + Duration::from_secs(10);
    while cut > 0 && !server.ended()? && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let ended = server.ended()?;
    println!("the API refused {refused} times and cut {cut}");
    ensure!(ended || refused > 0, "it wants for nothing");
    ensure!(ended || cut == 0, "it goes on and does not answer");
    if !ended {
        allow(server.pid(), "as", "unlimited")?;
    }
    Ok(ended)
}

/// Runs by a warden that gets no more memory. Afterwards it has it again, or another one is there, which is the answer.
fn warden_without_memory(server: &Server, client: &Client) -> Result<bool> {
    let warden = server.warden_pid().context("the warden")?;
    allow(warden, "as", "1")?;
    let run = json!({"language": "javascript", "code": "6 * 7"});
    let mut refused = 0;
    for _ in 0..100 {
        if server.warden_pid() != Some(warden) {
            break;
        }
        let answer = client.post("/v1/run", &run)?;
        ensure!([200, 503].contains(&answer.status), "{}", answer.text());
        refused += usize::from(answer.status == 503);
    }
    let ended = server.warden_pid() != Some(warden);
    println!("the warden refused {refused} times");
    if !ended {
        allow(warden, "as", "unlimited")?;
    }
    soon_runs(client, &run)?;
    Ok(ended)
}

/// That a session still has its `x = 41`.
fn remembers(client: &Client, session: &str) -> Result<()> {
    let answer = client.execute(session, "python", "x + 1")?;
    assert_eq!(answer["results"][0]["mime"]["text/plain"], "42", "{answer}");
    Ok(())
}

/// Waits until a program runs again.
fn soon_runs(client: &Client, run: &serde_json::Value) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = client.post("/v1/run", run)?;
        if answer.status == 200 {
            assert_eq!(answer.json()["status"], "succeeded", "{}", answer.text());
            return Ok(());
        }
        ensure!(Instant::now() < end, "it does not recover: {}", answer.text());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// security.md 97 (EINTR): what waits in the kernel when a process is stopped and continued is interrupted, and goes on.
fn processes_that_are_stopped_go_on(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default())?;
    let client = server.client()?;
    let warden = server.warden_pid().context("the warden")?;
    let egress = server.egress_pid().context("egress")?;
    let all = [server.pid(), warden, egress];
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopper = std::thread::spawn({
        let over = over.clone();
        move || -> Result<u32> {
            let mut stops = 0;
            for pid in all.into_iter().cycle() {
                if over.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let pid = rustix::process::Pid::from_raw(pid.cast_signed()).context("a process id")?;
                for (signal, pause) in
                    [(rustix::process::Signal::STOP, 3), (rustix::process::Signal::CONT, 2)]
                {
                    rustix::process::kill_process(pid, signal)?;
                    std::thread::sleep(Duration::from_millis(pause));
                }
                stops += 1;
            }
            Ok(stops)
        }
    });
    let worked = (0..100).try_for_each(|n| {
        let answer =
            client.post("/v1/run", &json!({"language": "javascript", "code": format!("{n} + 1")}))?;
        ensure!(answer.status == 200 && answer.json()["status"] == "succeeded", "{}", answer.text());
        Ok(())
    });
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    let stops = stopper.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    worked?;
    ensure!(stops > 30, "only {stops} stops");
    server.stop()?;
    Ok(())
}
