//! Limits: reached from inside, seen from outside.

use crate::Shared;
use anchorhold_tests::{Options, Server, host};
use anyhow::Result;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

tests!(
    endless_loops_end_in_time,
    a_soft_stop_keeps_the_state,
    sleeping_is_stopped_too,
    what_cannot_be_interrupted_is_stopped_hard,
    a_memory_bomb_ends_alone,
    asking_the_engine_for_too_much_ends_alone,
    endless_output_is_cut_and_counted,
    a_full_workspace_does_not_brick_the_session,
    a_running_execution_can_be_cancelled,
    cpu_seconds_are_a_limit,
    a_crash_of_the_interpreter_is_told,
);

fn timed(act: impl FnOnce() -> Result<Value>) -> Result<(Value, Duration)> {
    let start = Instant::now();
    Ok((act()?, start.elapsed()))
}

/// security.md 45.
fn endless_loops_end_in_time(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    for (language, code) in [("python", "while True: pass"), ("javascript", "for (;;) {}")] {
        let session = client.session(&json!({}))?;
        let request = json!({"language": language, "code": code, "timeout_seconds": 0.5});
        let (answer, took) = timed(|| client.execute_with(&session, &request))?;
        assert_eq!(answer["status"], "timed_out", "{answer}");
        assert!(took < Duration::from_millis(1_000), "{language} took {took:?}");
        client.close(&session)?;
    }
    Ok(())
}

/// security.md 46.
fn a_soft_stop_keeps_the_state(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    for (language, before, endless, after) in [
        ("python", "x = 7", "while True: x = 7", "x"),
        ("javascript", "let x = 7", "while (true) { x = 7 }", "x"),
    ] {
        client.execute(&session, language, before)?;
        let request = json!({"language": language, "code": endless, "timeout_seconds": 0.2});
        let answer = client.execute_with(&session, &request)?;
        assert_eq!(
            (&answer["status"], &answer["state_lost"]),
            (&json!("timed_out"), &json!(false)),
            "{answer}"
        );
        let answer = client.execute(&session, language, after)?;
        assert_eq!(answer["results"][0]["mime"]["text/plain"], "7", "{answer}");
    }
    client.close(&session)?;
    Ok(())
}

/// security.md 49: the host call that waits.
fn sleeping_is_stopped_too(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    client.execute(&session, "python", "kept = 1\nimport time")?;
    let request = json!({"language": "python", "code": "time.sleep(3600)", "timeout_seconds": 0.3});
    let (answer, took) = timed(|| client.execute_with(&session, &request))?;
    assert_eq!((&answer["status"], &answer["state_lost"]), (&json!("timed_out"), &json!(false)), "{answer}");
    assert!(took < Duration::from_millis(1_300), "{took:?}");
    client.close(&session)?;
    Ok(())
}

/// security.md 47, 49: one long operation inside the interpreter, and one that catches everything.
fn what_cannot_be_interrupted_is_stopped_hard(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    for (language, code) in [
        ("python", "sum(range(10 ** 11))"),
        ("python", "b = bytearray(200_000_000)\nwhile True: b[:] = bytes(200_000_000)"),
        ("python", "while True:\n    try:\n        while True: pass\n    except BaseException: pass"),
        ("javascript", "'x'.repeat(1e6).match(/(x+x+)+y/)"),
    ] {
        let session = client.session(&json!({}))?;
        let request = json!({"language": language, "code": code, "timeout_seconds": 0.3});
        let (answer, took) = timed(|| client.execute_with(&session, &request))?;
        assert!(
            ["timed_out", "limit_exceeded", "failed"]
                .contains(&answer["status"].as_str().unwrap_or_default()),
            "{answer}"
        );
        assert!(took < Duration::from_millis(2_300), "{code} took {took:?}");
        // The session goes on, with a new interpreter where the old one is lost.
        assert_eq!(client.execute(&session, language, "1 + 1")?["results"][0]["mime"]["text/plain"], "2");
        client.close(&session)?;
    }
    Ok(())
}

/// security.md 29.
fn a_memory_bomb_ends_alone(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let limit = 256u64 << 20;
    let session = client.session(&json!({"limits": {"memory_bytes": limit, "disk_bytes": 16 << 20}}))?;
    let neighbour = client.session(&json!({}))?;
    client.execute(&neighbour, "python", "kept = 'well'")?;
    let free_before = host::memory("MemAvailable");
    let answer =
        client.execute(&session, "python", "hoard = []\nwhile True: hoard.append(bytearray(1 << 20))")?;
    let drop = free_before.saturating_sub(host::memory("MemAvailable"));
    assert!(drop < limit + limit / 2, "the host lost {drop} bytes");
    let named = answer["limit"] == "memory" || answer["error"]["name"] == "MemoryError";
    assert!(named && answer["status"] != "succeeded", "{answer}");
    assert!(answer["limit"] == "memory" || answer["limits_hit"].to_string().contains("memory"), "{answer}");
    assert_eq!(client.execute(&session, "javascript", "1 + 1")?["status"], "succeeded");
    let answer = client.execute(&neighbour, "python", "kept")?;
    assert_eq!(answer["results"][0]["mime"]["text/plain"], "'well'");
    client.close(&session)?;
    client.close(&neighbour)?;
    Ok(())
}

/// security.md 43, 44: recursion, and host calls with absurd sizes.
fn asking_the_engine_for_too_much_ends_alone(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    for (language, code) in [
        ("python", "def f(): return f()\nf()"),
        ("javascript", "(function f() { return f() })()"),
        ("python", "import os\nos.urandom(1 << 30)"),
        ("python", "files = []\nwhile True: files.append(open('/tmp/f', 'w'))"),
        ("javascript", "new Uint8Array(2 ** 40)"),
    ] {
        let request = json!({"language": language, "code": code, "timeout_seconds": 10});
        let (answer, _) = timed(|| client.execute_with(&session, &request))?;
        assert_ne!(answer["status"], "succeeded", "{code}: {answer}");
        assert_ne!(answer["status"], "lost", "{code}: {answer}");
        assert_eq!(client.execute(&session, language, "1 + 1")?["status"], "succeeded", "after {code}");
    }
    client.close(&session)?;
    Ok(())
}

/// security.md 54.
fn endless_output_is_cut_and_counted(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let memory = |shared: &Shared| {
        shared.with(|s| {
            Ok(host::status(s.pid(), "VmRSS")
                .and_then(|t| t.strip_suffix(" kB")?.parse::<u64>().ok())
                .unwrap_or(0)
                << 10)
        })
    };
    let session = client.session(&json!({"limits": {"output_bytes": 1 << 20}}))?;
    let cut = client.execute(&session, "python", "for _ in range(2000): print('x' * 1023)")?;
    assert_eq!((&cut["status"], &cut["truncated"]), (&json!("succeeded"), &json!(true)), "{}", cut["status"]);
    assert_eq!(cut["stdout_bytes"], 2000 * 1024);
    assert!(cut["stdout"].as_str().map_or(0, str::len) <= 1 << 20);
    let before = memory(shared)?;
    let ended = client.execute(&session, "python", "line = 'x' * 1000000\nwhile True: print(line)")?;
    assert_eq!(
        (&ended["status"], &ended["limit"]),
        (&json!("limit_exceeded"), &json!("output")),
        "{}",
        ended["status"]
    );
    let after = memory(shared)?;
    assert!(
        after.saturating_sub(before) < 16 << 20,
        "the API grew by {} bytes",
        after.saturating_sub(before)
    );
    client.close(&session)?;
    Ok(())
}

fn a_full_workspace_does_not_brick_the_session(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({"limits": {"disk_bytes": 1 << 20}}))?;
    let full = client.execute(&session, "python", "open('big', 'wb').write(b'x' * (4 << 20))")?;
    assert_eq!(full["error"]["name"], "OSError", "{full}");
    assert_eq!(
        client.execute(&session, "python", "import os\nos.remove('big')\nopen('small', 'w').write('x')")?["status"],
        "succeeded"
    );
    let upload = client.put(&format!("/v1/sessions/{session}/files/up"), vec![0u8; 2 << 20])?;
    assert!(upload.status >= 400 && upload.status < 500, "{}", upload.status);
    let listing = client.get(&format!("/v1/sessions/{session}/files"))?.expect(200);
    assert_eq!(listing["items"].as_array().map(Vec::len), Some(1), "{listing}");
    client.close(&session)?;
    Ok(())
}

fn a_running_execution_can_be_cancelled(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    client.execute(&session, "python", "x = 3")?;
    let runner = std::thread::spawn({
        let (client, session) = (client.clone(), session.clone());
        move || client.execute(&session, "python", "while True: pass")
    });
    let id = loop {
        let list = client.get(&format!("/v1/sessions/{session}/executions"))?.expect(200);
        let running =
            list["items"].as_array().and_then(|i| i.iter().find(|e| e["status"] == "running").cloned());
        if let Some(id) = running.and_then(|e| e["id"].as_str().map(str::to_owned)) {
            break id;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    std::thread::sleep(Duration::from_millis(100));
    let cancel = client.post(&format!("/v1/sessions/{session}/executions/{id}/cancel"), &json!({}))?;
    assert!(cancel.status < 300, "{}", cancel.text());
    let answer = runner.join().map_err(|_| anyhow::anyhow!("the runner panicked"))??;
    assert_eq!((&answer["status"], &answer["state_lost"]), (&json!("cancelled"), &json!(false)), "{answer}");
    assert_eq!(client.execute(&session, "python", "x")?["results"][0]["mime"]["text/plain"], "3");
    client.close(&session)?;
    Ok(())
}

fn cpu_seconds_are_a_limit(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({"limits": {"cpu_seconds": 0.3}}))?;
    let answer = client.execute(&session, "python", "while True: pass")?;
    assert_eq!((&answer["status"], &answer["limit"]), (&json!("limit_exceeded"), &json!("cpu")), "{answer}");
    assert!(answer["usage"]["cpu_us"].as_u64().unwrap_or(0) < 1_500_000, "{answer}");
    client.close(&session)?;
    Ok(())
}

/// security.md 58: the cell dies under the execution.
fn a_crash_of_the_interpreter_is_told(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default().evil())?;
    let client = server.client()?;
    for attack in ["segv", "exit 0", "exit 139", "int80", "garbage", "impostor"] {
        let session = client.session(&json!({}))?;
        let answer = client.execute(&session, "python", attack)?;
        assert_eq!(
            (&answer["status"], &answer["state_lost"]),
            (&json!("failed"), &json!(true)),
            "{attack}: {answer}"
        );
        assert_eq!(answer["error"]["name"], "INTERPRETER_DIED", "{attack}: {answer}");
        let next = client.execute(&session, "python", "sockets")?;
        assert_eq!(next["status"], "succeeded", "after {attack}: {next}");
        client.close(&session)?;
    }
    server.stop()?;
    Ok(())
}
