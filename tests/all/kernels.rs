//! What older kernels cannot do is done in another way, with the same walls. This kernel is told that it cannot either; real
//! ones are started by `make kernels`.

use crate::Shared;
use crate::restart::{closer, kill_while_it_closes};
use crate::standby::{act, files_go_in_and_out, pids, uid};
use anchorhold_tests::{Options, Server, host};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

tests!(
    workspaces_are_kept_where_no_cell_comes,
    what_keeps_workspaces_may_be_killed,
    a_browser_runs_as_its_sessions_user,
    a_session_ends_while_its_browser_starts,
    without_landlock_that_is_said_or_refused,
);

/// Before Linux 6.15.
fn attached() -> Options {
    Options::default().fault("workspace_detached")
}

/// Before Linux 6.3.
fn nothing_is_lent() -> Options {
    Options::default().fault("workspace_lending")
}

/// Who the processes of a session's cells are on the host.
fn users_of(session: &str) -> BTreeSet<u32> {
    pids(session).into_iter().filter_map(uid).collect()
}

/// What is mounted in the namespace of a process.
fn mounts(pid: u32) -> Result<String> {
    Ok(std::fs::read_to_string(format!("/proc/{pid}/mountinfo"))?)
}

fn workspaces_are_kept_where_no_cell_comes(_: &Shared) -> Result<()> {
    let server = Server::start(attached())?;
    let client = server.client()?;
    let warden = server.warden_pid().context("a warden")?;
    let keeper = closer(warden)?;
    let session = client.session(&json!({}))?;
    let other = client.session(&json!({}))?;
    let name = session.trim_start_matches("ses_").to_owned();
    client.execute(&other, "python", "open('/workspace/secret', 'w').write('x')")?;
    client.put(&format!("/v1/sessions/{session}/files/up"), "by the files cell\n")?.expect(201);
    client.execute(&session, "python", "open('/workspace/wasm', 'w').write('by wasm\\n')")?;
    let native = json!({"language": "bash", "runtime": "native", "code":
        "echo 'by bash' > bash; cp /bin/true t && ./t && cat up wasm bash; ls -a /workspace/..; cat /proc/self/mountinfo"});
    let said = client.execute_with(&session, &native)?;
    let said = said["stdout"].as_str().context("output")?;
    ensure!(said.starts_with("by the files cell\nby wasm\nby bash\n"), "{said}");
    ensure!(!said.contains("secret") && !said.contains(other.trim_start_matches("ses_")), "{said}");
    ensure!(!said.contains(&name), "its own has a path: {said}");
    let read = client.execute(&session, "python", "open('/workspace/bash').read()")?;
    assert_eq!(read["status"], "succeeded", "{read}");
    // What has a wall of wasm around it finds nothing above its files either.
    let above =
        "import os\nfor path in ['/workspace/../..', '..', '/']:\n    print(sorted(os.listdir(path)))";
    let above = client.execute(&session, "python", above)?.to_string();
    ensure!(!above.contains("secret") && !above.contains(other.trim_start_matches("ses_")), "{above}");
    // It is where it was said to be, and nowhere else.
    ensure!(mounts(keeper)?.contains(&name), "it is not kept");
    ensure!(
        !mounts(warden)?.contains(&name) && !mounts(std::process::id())?.contains(&name),
        "the host has it"
    );
    for pid in host::cell_processes(&server.cgroup()) {
        // It may have ended.
        ensure!(!mounts(pid).unwrap_or_default().contains(&name), "cell {pid} has it");
    }
    client.close(&session)?;
    ensure!(!mounts(keeper)?.contains(&name), "it is still kept");
    client.close(&other)?;
    server.stop()?;
    Ok(())
}

fn what_keeps_workspaces_may_be_killed(_: &Shared) -> Result<()> {
    let server = Server::start(attached())?;
    let client = server.client()?;
    let warden = server.warden_pid().context("a warden")?;
    let first = closer(warden)?;
    let [ends, stays] = [client.session(&json!({}))?, client.session(&json!({}))?];
    for session in [&ends, &stays] {
        client.execute(session, "python", "open('/workspace/f', 'w').write('x' * 1000)")?;
    }
    kill_while_it_closes(&client, &ends, first)?;
    let second = closer(warden)?;
    assert_ne!(first, second);
    let kept = mounts(second)?;
    ensure!(!kept.contains(ends.trim_start_matches("ses_")), "it is kept for ever: {kept}");
    ensure!(kept.contains(stays.trim_start_matches("ses_")), "it is lost: {kept}");
    let native = json!({"language": "bash", "runtime": "native", "code": "wc -c f"});
    assert_eq!(client.execute_with(&stays, &native)?["stdout"], "1000 f\n");
    server.stop()?;
    Ok(())
}

fn a_browser_runs_as_its_sessions_user(_: &Shared) -> Result<()> {
    let server = Server::start(nothing_is_lent().with("pool", "browser", "1"))?;
    let client = server.client()?;
    let session = client.session(&json!({"browser": {}}))?;
    files_go_in_and_out(&client, &session)?;
    client.execute(&session, "python", "1")?;
    let users = users_of(&session);
    ensure!(users.len() == 1 && users.iter().all(|uid| *uid >= 1_000_000_000), "{users:?}");
    // Two at once, of two sessions, are two users'.
    let second = client.session(&json!({"browser": {}}))?;
    act(&client, &second, &json!([{"type": "navigate", "url": "about:blank"}]))?;
    let others = users_of(&second);
    ensure!(users.is_disjoint(&others), "{users:?} {others:?}");
    client.close(&session)?;
    client.close(&second)?;
    server.stop()?;
    Ok(())
}

/// It is its session's from its birth: its session is over when it is gone.
fn a_session_ends_while_its_browser_starts(_: &Shared) -> Result<()> {
    let server = Server::start(nothing_is_lent())?;
    let client = server.client()?;
    let warm = client.session(&json!({"browser": {}}))?;
    act(&client, &warm, &json!([{"type": "navigate", "url": "about:blank"}]))?;
    client.close(&warm)?;
    for wait_ms in [0, 5, 20, 60, 120] {
        let session = client.session(&json!({"browser": {}}))?;
        let asking = std::thread::spawn({
            let (client, session) = (client.clone(), session.clone());
            let actions = json!({"actions": [{"type": "snapshot"}]});
            move || client.post(&format!("/v1/sessions/{session}/browser/actions"), &actions)
        });
        std::thread::sleep(Duration::from_millis(wait_ms));
        client.close(&session)?;
        let answer = asking.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        ensure!(answer.status != 500, "{}", answer.text());
        let end = Instant::now() + Duration::from_secs(5);
        while !host::cell_processes(&server.cgroup()).is_empty() {
            ensure!(Instant::now() < end, "after {wait_ms} ms: {:?}", host::cell_processes(&server.cgroup()));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    server.stop()?;
    Ok(())
}

/// security.md 25. The kernel's command line says whether it has it; `make kernels` starts one that has not.
fn without_landlock_that_is_said_or_refused(shared: &Shared) -> Result<()> {
    let line = std::fs::read_to_string("/proc/cmdline")?;
    let mut modules = line.split_whitespace().filter_map(|word| word.strip_prefix("lsm="));
    let stands = modules.next_back().is_none_or(|all| all.split(',').any(|module| module == "landlock"));
    let programs = [json!({"language": "python", "code": "1"}), json!({"command": ["true"]})];
    let page = json!({"actions": [{"type": "navigate", "url": "about:blank"}]});
    let client = shared.client()?;
    let session = client.session(&json!({"browser": {}}))?;
    let landlock = || -> Result<_> {
        Ok(client.get(&format!("/v1/sessions/{session}"))?.expect(200)["isolation"]["landlock"].clone())
    };
    let said = if stands { "standing" } else { "absent: this kernel has none" };
    for program in &programs {
        let answer = client.execute_with(&session, program)?;
        assert_eq!(answer["status"], "succeeded", "{answer}");
        assert_eq!(landlock()?, said, "{program}");
    }
    act(&client, &session, &page["actions"])?;
    assert_eq!(landlock()?, said);
    client.close(&session)?;

    let server = Server::start(Options::default().with("warden", "require_landlock", "true"))?;
    let client = server.client()?;
    let session = client.session(&json!({"browser": {}}))?;
    let executions = format!("/v1/sessions/{session}/executions");
    let actions = format!("/v1/sessions/{session}/browser/actions");
    let asked = programs.iter().map(|program| (&executions, program)).chain([(&actions, &page)]);
    for (path, body) in asked {
        let answer = client.post(path, body)?;
        if stands {
            assert_eq!(answer.expect(200)["status"], "succeeded", "{}", answer.text());
        } else {
            assert_eq!(answer.problem(503), "isolation_unavailable", "{body}: {}", answer.text());
        }
    }
    client.close(&session)?;
    server.stop()?;
    Ok(())
}
