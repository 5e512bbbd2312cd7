//! The walls, attacked from inside by native code and looked at from outside.

use crate::Shared;
use anchorhold_tests::{Client, Options, Server, host};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};

tests!(
    guests_read_nothing_of_the_host,
    native_code_reads_nothing_of_the_host,
    the_filter_lets_through_what_the_golden_file_says,
    no_socket_opens,
    cells_hold_no_privilege,
    live_cells_share_no_user_and_no_group,
    sessions_draw_different_random_numbers,
    hostile_native_code_is_killed_in_time,
    hostile_output_is_bounded,
    native_memory_is_bounded,
    only_plain_files_can_be_made,
);

fn evil() -> Result<(Server, Client)> {
    let server = Server::start(Options::default().evil())?;
    let client = server.client()?;
    Ok((server, client))
}

fn attack(client: &Client, session: &str, attack: &str) -> Result<String> {
    let answer = client.execute(session, "python", attack)?;
    Ok(answer["stdout"].as_str().unwrap_or_default().to_owned())
}

/// The processes of a session's cells, found from outside by its groups.
fn pids(session: &str) -> Vec<u32> {
    host::cell_processes(session.trim_start_matches("ses_"))
}

/// security.md 1, 8 for wasm guests.
fn guests_read_nothing_of_the_host(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let canary = format!("canary-{}", std::process::id());
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), &canary)?;
    let session = client.session(&json!({}))?;
    let code = format!(
        "import os\nfound = []\nfor p in ['/etc/passwd', '/proc/self/status', '/sys', '/dev/null', '/root', '{}', '/workspace/../etc/passwd', '../../etc/passwd', '/tmp/../../etc']:\n    try:\n        found.append(open(p).read())\n    except Exception as e: pass\n    try:\n        found.append(str(os.listdir(p)))\n    except Exception as e: pass\nfound",
        file.path().display()
    );
    let answer = client.execute(&session, "python", &code)?;
    assert_eq!(answer["results"][0]["mime"]["text/plain"], "[]", "{answer}");
    client.close(&session)?;
    Ok(())
}

/// security.md 1, 4, 8 for native code in the cell.
fn native_code_reads_nothing_of_the_host(_: &Shared) -> Result<()> {
    let (server, client) = evil()?;
    let file = tempfile::NamedTempFile::new()?;
    let session = client.session(&json!({}))?;
    let found = attack(&client, &session, &format!("files {}", file.path().display()))?;
    assert_eq!(found, "done\n");
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

/// security.md 15, 16, 17, 18, 20, 23: the map of calls, drift fails.
fn the_filter_lets_through_what_the_golden_file_says(_: &Shared) -> Result<()> {
    let (server, client) = evil()?;
    let session = client.session(&json!({}))?;
    let allowed: BTreeSet<u32> =
        attack(&client, &session, "syscalls")?.lines().filter_map(|l| l.parse().ok()).collect();
    assert!(allowed.len() > 30, "the prober ended early: {allowed:?}");
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/syscalls_wasm.txt");
    let shown: String = allowed.iter().map(|n| format!("{n}\n")).collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &shown)?;
    }
    let golden = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    assert_eq!(shown, golden, "system calls that answer from inside a locked cell");
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

/// security.md 19, 78.
fn no_socket_opens(_: &Shared) -> Result<()> {
    let (server, client) = evil()?;
    let session = client.session(&json!({}))?;
    assert_eq!(attack(&client, &session, "sockets")?, "done\n");
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

/// security.md 13, 14, 24, 25: read from outside, on every thread.
fn cells_hold_no_privilege(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    client.execute(&session, "python", "1")?;
    client.put(&format!("/v1/sessions/{session}/files/a"), "x")?.expect(201);
    let cells = pids(&session);
    assert_eq!(cells.len(), 2, "a wasm and a files cell");
    for pid in cells {
        let tasks: Vec<u32> = std::fs::read_dir(format!("/proc/{pid}/task"))?
            .flatten()
            .filter_map(|t| t.file_name().to_str()?.parse().ok())
            .collect();
        for task in tasks {
            let field = |name| host::status(task, name).unwrap_or_default();
            assert_eq!((field("Seccomp").as_str(), field("NoNewPrivs").as_str()), ("2", "1"), "{pid}/{task}");
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(field(set), "0000000000000000", "{pid}/{task} {set}");
            }
            assert!(
                field("Uid").split('\t').all(|uid| uid.parse::<u32>().is_ok_and(|u| u >= 1_000_000_000)),
                "{}",
                field("Uid")
            );
            assert_eq!(field("Groups"), "", "supplementary groups");
        }
        for kind in ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"] {
            let own = host::namespace(pid, kind).context("namespace")?;
            assert_ne!(Some(own), host::namespace(std::process::id(), kind), "{kind} is the host's");
        }
        let root: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/root"))?.flatten().collect();
        assert!(root.is_empty(), "{root:?}");
        let environment = std::fs::read(format!("/proc/{pid}/environ"))?;
        assert!(!String::from_utf8_lossy(&environment).contains("HOME"), "the host's environment is inside");
    }
    client.close(&session)?;
    Ok(())
}

/// security.md 65.
fn live_cells_share_no_user_and_no_group(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let mut users: HashSet<String> = HashSet::new();
    let mut groups: HashSet<String> = HashSet::new();
    let sessions = (0..6).map(|_| client.session(&json!({}))).collect::<Result<Vec<_>>>()?;
    for session in &sessions {
        client.execute(session, "javascript", "1")?;
        let cells = pids(session);
        assert_eq!(cells.len(), 1);
        assert!(users.insert(host::status(cells[0], "Uid").unwrap_or_default()), "a user is shared");
        let memory = std::fs::read_to_string(format!("/proc/{}/cgroup", cells[0]))?;
        let memory = memory
            .lines()
            .find(|l| l.contains(":memory:") || l.starts_with("0::"))
            .unwrap_or_default()
            .to_owned();
        assert!(groups.insert(memory), "a group is shared");
    }
    for session in &sessions {
        client.close(session)?;
    }
    Ok(())
}

/// security.md 64, for the generators that wasm guests have.
fn sessions_draw_different_random_numbers(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let python = "import random, uuid, os, secrets, tempfile\n\
        (random.random(), str(uuid.uuid4()), os.urandom(8).hex(), secrets.token_hex(8), random.Random().random(), tempfile.mktemp())";
    let javascript = "[Math.random(), crypto.randomUUID(), [...crypto.getRandomValues(new Uint8Array(8))].join()].join(' ')";
    for (language, code) in [("python", python), ("javascript", javascript)] {
        let mut seen = HashSet::new();
        for _ in 0..1_000 {
            let answer = client.post("/v1/run", &json!({"language": language, "code": code}))?.expect(200);
            let shown = answer["results"][0]["mime"]["text/plain"].as_str().unwrap_or_default().to_owned();
            assert!(shown.len() > 40, "{answer}");
            for draw in shown.trim_matches(['(', ')', '\'']).split([' ']).map(|d| d.trim_matches([',', '\'']))
            {
                assert!(seen.insert(draw.to_owned()), "{language}: {draw} was drawn twice");
            }
        }
    }
    Ok(())
}

fn hostile_native_code_is_killed_in_time(_: &Shared) -> Result<()> {
    let (server, client) = evil()?;
    let session = client.session(&json!({}))?;
    let start = std::time::Instant::now();
    let answer = client
        .execute_with(&session, &json!({"language": "python", "code": "spin", "timeout_seconds": 0.5}))?;
    assert!(start.elapsed() < std::time::Duration::from_millis(2_500), "{:?}", start.elapsed());
    assert_eq!((&answer["status"], &answer["state_lost"]), (&json!("timed_out"), &json!(true)), "{answer}");
    assert!(answer["usage"]["cpu_us"].as_u64().unwrap_or(0) > 500_000, "{answer}");
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

/// security.md 54 from a cell that ignores every cap.
fn hostile_output_is_bounded(_: &Shared) -> Result<()> {
    let (server, client) = evil()?;
    let rss = || {
        host::status(server.pid(), "VmRSS")
            .and_then(|t| t.strip_suffix(" kB")?.parse::<u64>().ok())
            .unwrap_or(0)
            << 10
    };
    let session = client.session(&json!({"limits": {"output_bytes": 1 << 20}}))?;
    client.execute(&session, "python", "sockets")?;
    let before = rss();
    let answer = client
        .execute_with(&session, &json!({"language": "python", "code": "flood", "timeout_seconds": 3}))?;
    assert_ne!(answer["status"], "succeeded");
    assert!(answer["stdout"].as_str().map_or(0, str::len) <= 1 << 20);
    assert!(rss().saturating_sub(before) < 16 << 20, "the API grew from {before} to {}", rss());
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

/// security.md 29 from native code.
fn native_memory_is_bounded(_: &Shared) -> Result<()> {
    let (server, client) = evil()?;
    let limits = json!({"memory_bytes": 128 << 20, "disk_bytes": 16 << 20});
    let session = client.session(&json!({"limits": limits}))?;
    let before = host::memory("MemAvailable");
    let answer = client.execute(&session, "python", &format!("memory {}", 4u64 << 30))?;
    assert!(before.saturating_sub(host::memory("MemAvailable")) < 256 << 20);
    let expected: (&Value, &Value, &Value) = (&json!("limit_exceeded"), &json!("memory"), &json!(true));
    assert_eq!((&answer["status"], &answer["limit"], &answer["state_lost"]), expected, "{answer}");
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

/// security.md 10, 13: devices, set-user-id files and links cannot be made.
fn only_plain_files_can_be_made(_: &Shared) -> Result<()> {
    let (server, client) = evil()?;
    let session = client.session(&json!({}))?;
    assert_eq!(attack(&client, &session, "write")?, "done\n");
    client.close(&session)?;
    server.stop()?;
    Ok(())
}
