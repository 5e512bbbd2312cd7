//! Sessions: made, found, changed, ended.

use crate::Shared;
use anchorhold_tests::{Options, Server};
use anyhow::{Context, Result};
use serde_json::json;
use std::time::{Duration, Instant};

tests!(
    a_session_is_echoed_whole,
    sessions_are_listed,
    deleting_twice_gives_the_same,
    an_expired_session_is_gone,
    expiry_ends_what_runs,
    a_longer_life_can_be_asked_for,
    a_closed_session_refuses_work,
    walls_are_reported,
    a_runtime_that_is_not_there_is_never_replaced,
    stopping_races_give_only_documented_answers,
);

fn a_session_is_echoed_whole(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let request = json!({"name": "n", "ttl_seconds": 60, "limits": {"memory_bytes": 268_435_456, "execution_seconds": 5}, "metadata": {"k": "v"}});
    let answer = client.post("/v1/sessions", &request)?;
    let made = answer.expect(201);
    assert_eq!(
        (&made["name"], &made["status"], &made["runtime"]),
        (&json!("n"), &json!("active"), &json!("wasm"))
    );
    assert_eq!(
        (&made["limits"]["memory_bytes"], &made["limits"]["execution_seconds"]),
        (&json!(268_435_456), &json!(5.0)),
        "{made}"
    );
    assert_eq!((&made["network"], &made["metadata"]), (&json!({"mode": "none"}), &json!({"k": "v"})));
    let id = made["id"].as_str().unwrap_or_default();
    assert!(id.starts_with("ses_") && id.len() == 30, "{id}");
    let got = client.get(&format!("/v1/sessions/{id}"))?.expect(200);
    assert_eq!(
        (&got["id"], &got["created_at"], &got["expires_at"]),
        (&made["id"], &made["created_at"], &made["expires_at"])
    );
    client.close(id)?;
    Ok(())
}

fn sessions_are_listed(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let listed = client.get("/v1/sessions?status=active&limit=1000")?.expect(200);
    let has =
        |list: &serde_json::Value| list["items"].as_array().into_iter().flatten().any(|s| s["id"] == session);
    assert!(has(&listed), "{listed}");
    client.close(&session)?;
    assert!(!has(&client.get("/v1/sessions?status=active&limit=1000")?.expect(200)));
    Ok(())
}

fn deleting_twice_gives_the_same(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    client.execute(&session, "python", "1")?;
    let first = client.close(&session)?;
    assert_eq!((&first["status"], &first["close_reason"]), (&json!("closed"), &json!("client")));
    assert!(first["usage"].is_object(), "{first}");
    assert_eq!(client.close(&session)?, first);
    Ok(())
}

fn an_expired_session_is_gone(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({"ttl_seconds": 1}))?;
    client.execute(&session, "python", "1")?;
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let got = client.get(&format!("/v1/sessions/{session}"))?.expect(200);
        if got["status"] == "closed" {
            assert_eq!(got["close_reason"], "expired");
            break;
        }
        assert!(Instant::now() < end, "{got}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(anchorhold_tests::host::cgroups(session.trim_start_matches("ses_")).is_empty());
    Ok(())
}

/// security.md 99: a session that expires while it works is gone within two seconds, whatever the work wants.
fn expiry_ends_what_runs(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({"ttl_seconds": 1}))?;
    let begun = Instant::now();
    let code = "try { for (;;); } finally { for (;;); }";
    let request = json!({"language": "javascript", "code": code, "timeout_seconds": 60});
    let answer = client.execute_with(&session, &request)?;
    let took = begun.elapsed();
    // No execution has more time than its session.
    assert_eq!(answer["status"], "timed_out", "{answer}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    let gone = || -> Result<bool> {
        let got = client.get(&format!("/v1/sessions/{session}"))?.expect(200);
        let groups = anchorhold_tests::host::cgroups(session.trim_start_matches("ses_"));
        Ok(got["status"] == "closed" && got["close_reason"] == "expired" && groups.is_empty())
    };
    while !gone()? {
        assert!(begun.elapsed() < Duration::from_secs(3), "it is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
    let again = client.post(&format!("/v1/sessions/{session}/executions"), &request)?;
    assert_eq!(again.problem(410), "session_closed");
    Ok(())
}

fn a_longer_life_can_be_asked_for(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({"ttl_seconds": 1}))?;
    client.execute(&session, "python", "x = 1")?;
    client
        .patch(&format!("/v1/sessions/{session}"), &json!({"ttl_seconds": 60, "metadata": {"a": "b"}}))?
        .expect(200);
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(client.execute(&session, "python", "x")?["status"], "succeeded");
    client.close(&session)?;
    Ok(())
}

fn a_closed_session_refuses_work(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    client.close(&session)?;
    let path = format!("/v1/sessions/{session}");
    let execute = client.post(&format!("{path}/executions"), &json!({"language": "python", "code": "1"}))?;
    assert_eq!(execute.problem(410), "session_closed");
    assert_eq!(client.put(&format!("{path}/files/a"), "x")?.problem(410), "session_closed");
    Ok(())
}

fn walls_are_reported(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    client.execute(&session, "python", "1")?;
    let isolation = client.get(&format!("/v1/sessions/{session}"))?.expect(200)["isolation"].clone();
    for wall in [
        "seccomp",
        "capabilities",
        "no_new_privileges",
        "user_namespace",
        "pid_namespace",
        "network_namespace",
        "landlock",
        "cgroup",
    ] {
        assert_eq!(isolation[wall], "standing", "{isolation}");
    }
    client.close(&session)?;
    Ok(())
}

/// A server that has nothing but Python for the wasm runtime.
fn a_runtime_that_is_not_there_is_never_replaced(_: &Shared) -> Result<()> {
    let (all, some) = (anchorhold_tests::image_dir(), tempfile::tempdir()?);
    let manifest = std::fs::read_to_string(all.join("python-wasm.json"))?;
    let digest = serde_json::from_str::<serde_json::Value>(&manifest)?["digest"].clone();
    let digest = digest.as_str().context("a digest")?.trim_start_matches("sha256:").to_owned();
    std::fs::create_dir_all(some.path().join("blobs"))?;
    std::fs::write(some.path().join("python-wasm.json"), manifest)?;
    let blob = format!("blobs/{digest}.cwasm");
    std::fs::copy(all.join(&blob), some.path().join(&blob))?;
    let server = Server::start(Options { images: Some(some.path().to_owned()), ..Options::default() })?;
    let client = server.client()?;
    let wasm = client.post("/v1/run", &json!({"language": "python", "code": "6 * 7"}))?.expect(200);
    assert_eq!(wasm["results"][0]["mime"]["text/plain"], "42");
    for body in [
        json!({"language": "python", "runtime": "native", "code": "1"}),
        json!({"language": "bash", "runtime": "native", "code": "1"}),
        json!({"command": ["true"]}),
        json!({"language": "javascript", "code": "1"}),
    ] {
        let run = client.post("/v1/run", &body)?;
        assert_eq!(run.problem(503), "isolation_unavailable", "{body}");
    }
    server.stop()?;
    Ok(())
}

/// security.md 52.
fn stopping_races_give_only_documented_answers(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    for round in 0..60 {
        let session = client.session(&json!({}))?;
        let work = |path: String, act: fn(&anchorhold_tests::Client, &str) -> Result<u16>| {
            let client = client.clone();
            std::thread::spawn(move || act(&client, &path))
        };
        let path = format!("/v1/sessions/{session}");
        let racers = [
            work(path.clone(), |c, p| {
                Ok(c.post(&format!("{p}/executions"), &json!({"language": "javascript", "code": "1 + 1"}))?
                    .status)
            }),
            work(path.clone(), |c, p| Ok(c.put(&format!("{p}/files/f"), "x")?.status)),
            work(path.clone(), |c, p| Ok(c.delete(p)?.status)),
            work(path.clone(), |c, p| Ok(c.delete(p)?.status)),
        ];
        for racer in racers {
            let status = racer.join().map_err(|_| anyhow::anyhow!("a racer panicked"))??;
            assert!([200, 201, 410, 503].contains(&status), "round {round}: {status}");
        }
        let end = Instant::now() + Duration::from_secs(10);
        while !anchorhold_tests::host::cgroups(session.trim_start_matches("ses_")).is_empty() {
            assert!(Instant::now() < end, "round {round} left a group");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}
