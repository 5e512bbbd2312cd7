//! Tenants: apart from each other, within their quotas, and administered by one key only.

use crate::Shared;
use anchorhold_tests::{Answer, Client, Options, Server};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

tests!(
    another_tenants_ids_are_like_unknown_ids,
    only_one_key_administers,
    a_revoked_key_is_like_a_wrong_one,
    keys_are_kept_as_digests_only,
    a_wrong_keys_time_says_nothing,
    processors_are_shared_by_tenants,
    a_disabled_tenant_is_refused_at_once,
    a_tenant_over_its_budget_is_refused_at_once,
    a_hundred_creates_at_once_give_exactly_the_quota,
    sums_of_limits_have_quotas,
    cells_and_browsers_have_quotas,
    bytes_to_and_from_the_network_have_a_quota,
    what_cannot_be_kept_to_is_refused,
    whoever_asks_too_often_is_told_when_to_come_back,
    refusals_beyond_a_rate_wait,
    no_other_origin_is_let_in,
);

/// A new tenant, and a client with a key of it.
pub fn tenant(admin: &Client, name: &str, quotas: &Value) -> Result<(String, Client)> {
    let made = admin.post("/v1/tenants", &json!({"name": name, "quotas": quotas}))?.expect(201);
    let id = made["id"].as_str().context("id")?.to_owned();
    let key = admin.post(&format!("/v1/tenants/{id}/keys"), &json!({"name": "test"}))?.expect(201);
    let client = admin.with_key(Some(key["key"].as_str().context("key")?));
    Ok((id, client))
}

/// Everything of an answer that may not tell two refusals apart.
fn told(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| name != "x-request-id" && name != "date");
    let id = answer.header("x-request-id").unwrap_or_default();
    (answer.status, headers, answer.text().replace(id, ""))
}

/// All routes that name something, from the server's own document, which no route can be missing from.
fn routes(client: &Client) -> Result<Vec<String>> {
    let document = client.get("/openapi.json")?.expect(200);
    let routes = document["paths"].as_object().context("paths")?.keys();
    let routes: Vec<String> = routes.filter(|route| route.contains('{')).cloned().collect();
    anyhow::ensure!(routes.len() > 8, "{routes:?}");
    Ok(routes)
}

/// security.md 103: B with A's ids, on every route and method.
fn another_tenants_ids_are_like_unknown_ids(shared: &Shared) -> Result<()> {
    let admin = shared.client()?;
    let (a_id, a) = tenant(&admin, "walk-a", &json!({}))?;
    let (_, b) = tenant(&admin, "walk-b", &json!({}))?;
    let session = a.session(&json!({}))?;
    let execution = a.execute(&session, "python", "n = 41")?;
    a.put(&format!("/v1/sessions/{session}/files/a.txt"), "secret")?.expect(201);
    let key = admin.get(&format!("/v1/tenants/{a_id}/keys"))?.expect(200)["items"][0]["id"].clone();
    let real = |name: &str| match name {
        "exe" => execution["id"].as_str().map(str::to_owned),
        "ctx" => execution["context_id"].as_str().map(str::to_owned),
        "key" => key.as_str().map(str::to_owned),
        "path" => Some("a.txt".to_owned()),
        "port" => Some("3000".to_owned()),
        _ => None,
    };
    for route in routes(&admin)? {
        let fill = |known: bool| -> Result<String> {
            let mut path = route.clone();
            while let Some((before, rest)) = path.split_once('{') {
                let (name, after) = rest.split_once('}').context("a route")?;
                let id = match name {
                    "id" if route.starts_with("/v1/tenants") => Some(a_id.clone()),
                    "id" => Some(session.clone()),
                    name => real(name),
                };
                let id = id.with_context(|| format!("what is {name} of {route}?"))?;
                let unknown =
                    id.split_once('_').map_or(id.clone(), |(kind, _)| format!("{kind}_{}", "0".repeat(26)));
                path = format!("{before}{}{after}", if known { id } else { unknown });
            }
            Ok(path)
        };
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            let last = route.rsplit('/').next().unwrap_or_default();
            let body = match (method, last) {
                ("PUT", _) => "overwritten".to_owned(),
                ("POST", "executions") => json!({"language": "python", "code": "1"}).to_string(),
                ("POST", "files:batch") => {
                    json!({"operations": [{"op": "delete", "path": "a.txt"}]}).to_string()
                }
                _ => json!({}).to_string(),
            };
            let kind = if last == "archive" { "application/x-tar" } else { "application/json" };
            let ask = |known: bool| {
                b.raw(method, &fill(known)?, &[("content-type", kind)], body.clone().into_bytes())
            };
            let (known, unknown) = (ask(true)?, ask(false)?);
            assert_eq!(told(&known), told(&unknown), "{method} {route}");
            assert!([403, 404, 405, 415, 422].contains(&known.status), "{method} {route}: {}", known.status);
        }
        assert!([403, 404, 405].contains(&b.get(&fill(true)?)?.status), "{route}");
    }
    // An id in a body.
    let own = b.session(&json!({}))?;
    let context = |id: &str| {
        let body = json!({"language": "python", "code": "1", "context": id});
        b.post(&format!("/v1/sessions/{own}/executions"), &body)
    };
    let known = context(execution["context_id"].as_str().context("context_id")?)?;
    assert_eq!(known.problem(404), "context_not_found");
    assert_eq!(told(&known), told(&context(&format!("ctx_{}", "0".repeat(26)))?));
    // Nothing happened to A, and B's lists are its own.
    assert_eq!(a.execute(&session, "python", "n + 1")?["results"][0]["mime"]["text/plain"], "42");
    assert_eq!(a.get(&format!("/v1/sessions/{session}/files/a.txt"))?.text(), "secret");
    let listed = b.get("/v1/sessions")?.expect(200);
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(b.get("/v1/usage")?.expect(200)["items"], json!([]));
    a.close(&session)?;
    b.close(&own)?;
    Ok(())
}

/// security.md 114.
fn only_one_key_administers(shared: &Shared) -> Result<()> {
    let admin = shared.client()?;
    let (id, client) = tenant(&admin, "ordinary", &json!({"sessions": 3}))?;
    let unknown = format!("/v1/tenants/ten_{}", "0".repeat(26));
    for path in [
        "/v1/tenants".to_owned(),
        format!("/v1/tenants/{id}"),
        format!("/v1/tenants/{id}/keys"),
        unknown.clone(),
    ] {
        assert_eq!(client.get(&path)?.problem(403), "forbidden", "{path}");
        assert_eq!(admin.with_key(None).get(&path)?.problem(401), "unauthorized", "{path}");
    }
    for (method, path) in [
        ("POST", "/v1/tenants".to_owned()),
        ("PATCH", format!("/v1/tenants/{id}")),
        ("POST", format!("/v1/tenants/{id}/keys")),
        ("DELETE", format!("/v1/tenants/{id}/keys/key_{}", "0".repeat(26))),
    ] {
        let answer = client.raw(method, &path, &[], b"{\"name\":\"x\"}".to_vec())?;
        assert_eq!(answer.problem(403), "forbidden", "{method} {path}");
    }
    assert_eq!(admin.get(&unknown)?.problem(404), "not_found");
    let shown = admin.get(&format!("/v1/tenants/{id}"))?.expect(200);
    assert_eq!((&shown["name"], &shown["quotas"]["sessions"]), (&json!("ordinary"), &json!(3)), "{shown}");
    let taken = admin.post("/v1/tenants", &json!({"name": "ordinary"}))?;
    assert_eq!(taken.problem(409), "conflict");
    Ok(())
}

/// security.md 104.
fn a_revoked_key_is_like_a_wrong_one(shared: &Shared) -> Result<()> {
    let admin = shared.client()?;
    let (id, client) = tenant(&admin, "revoked", &json!({}))?;
    client.get("/v1/sessions")?.expect(200);
    let keys = format!("/v1/tenants/{id}/keys");
    let key = admin.get(&keys)?.expect(200)["items"][0]["id"].as_str().context("id")?.to_owned();
    let revoked = admin.delete(&format!("{keys}/{key}"))?.expect(200);
    assert!(revoked["revoked_at"].is_string() && revoked["key"].is_null(), "{revoked}");
    let answers = [
        client.get("/v1/sessions")?,
        admin.with_key(Some("ah_wrong")).get("/v1/sessions")?,
        admin.with_key(None).get("/v1/sessions")?,
    ];
    assert_eq!(answers[0].problem(401), "unauthorized");
    assert!(answers.iter().all(|answer| told(answer) == told(&answers[0])));
    assert_eq!(admin.delete(&format!("{keys}/{key}"))?.expect(200), revoked, "again: the same");
    Ok(())
}

/// security.md 104 and 105: neither the ledger's files nor the log hold a key.
fn keys_are_kept_as_digests_only(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default())?;
    let admin = server.client()?;
    let (id, _) = tenant(&admin, "t", &json!({}))?;
    let made = admin.post(&format!("/v1/tenants/{id}/keys"), &json!({"name": "seen-once"}))?.expect(201);
    let secret = made["key"].as_str().context("key")?.to_owned();
    let client = admin.with_key(Some(&secret));
    client.post("/v1/run", &json!({"language": "python", "code": "1"}))?.expect(200);
    assert!(!admin.get(&format!("/v1/tenants/{id}/keys"))?.text().contains(&secret));
    let ledger = server.data_dir().join("ledger");
    let admin_key = std::fs::read_to_string(server.data_dir().join("admin.key"))?.trim().to_owned();
    let holds = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    let mut searched = 0;
    for entry in std::fs::read_dir(ledger)?.flatten() {
        let bytes = std::fs::read(entry.path())?;
        searched += usize::from(holds(&bytes, "seen-once"));
        assert!(!holds(&bytes, &secret) && !holds(&bytes, &admin_key), "{:?}", entry.path());
    }
    assert!(searched > 0, "the key's name must have been found");
    let log = server.stop()?;
    assert!(!log.contains(&secret) && !log.contains(&admin_key));
    Ok(())
}

/// security.md 105: keys that are wrong in their first and in their last place, in turn; Welch's t of what they took. What
/// took longest was something else.
fn a_wrong_keys_time_says_nothing(shared: &Shared) -> Result<()> {
    const PAIRS: usize = 3000;
    let admin = shared.client()?;
    let (id, _) = tenant(&admin, "timed", &json!({}))?;
    let made = admin.post(&format!("/v1/tenants/{id}/keys"), &json!({"name": "timed"}))?.expect(201);
    let key = made["key"].as_str().context("key")?;
    let other = |at: usize| -> String {
        let change = |(n, c): (usize, char)| if n == at { if c == 'a' { 'b' } else { 'a' } } else { c };
        key.chars().enumerate().map(change).collect()
    };
    let keys = [other("ah_".len()), other(key.len() - 1)].map(|key| admin.with_key(Some(&key)));
    let mut times = [const { Vec::new() }; 2];
    for pair in 0..PAIRS {
        for at in [pair % 2, 1 - pair % 2] {
            let begun = Instant::now();
            let answer = keys[at].get("/v1/usage")?;
            times[at].push(begun.elapsed().as_secs_f64());
            assert_eq!(answer.status, 401, "{}", answer.text());
        }
    }
    let [first, last] = times.map(|mut times| {
        times.sort_unstable_by(f64::total_cmp);
        times.truncate(PAIRS * 9 / 10);
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    });
    let t = (first.0 - last.0) / (first.1 + last.1).sqrt();
    println!("wrong first {:.1} µs, wrong last {:.1} µs, t = {t:.2}", first.0 * 1e6, last.0 * 1e6);
    anyhow::ensure!(t.abs() < 6.0, "t = {t}");
    Ok(())
}

/// security.md 33, 67: four busy sessions of one tenant and two of another want all processors; each tenant gets a half.
fn processors_are_shared_by_tenants(shared: &Shared) -> Result<()> {
    let admin = shared.client()?;
    let mut sessions = Vec::new();
    for (name, count) in [("busy", 4), ("less-busy", 2)] {
        let (_, client) = tenant(&admin, name, &json!({}))?;
        for _ in 0..count {
            let session = client.session(&json!({}))?;
            client.execute(&session, "python", "1")?;
            sessions.push((name, client.clone(), session));
        }
    }
    let busy = json!({"language": "python", "code": "while True: pass", "timeout_seconds": 4});
    let used = std::thread::scope(|scope| {
        let run = |(name, client, session): &(&'static str, Client, String)| {
            let answer = client.execute_with(session, &busy)?;
            assert_eq!(answer["status"], "timed_out", "{answer}");
            client.close(session)?;
            anyhow::Ok((*name, answer["usage"]["cpu_us"].as_u64().context("cpu_us")?))
        };
        let running: Vec<_> = sessions.iter().map(|session| scope.spawn(move || run(session))).collect();
        let ended = running.into_iter();
        ended.map(|run| run.join().map_err(|_| anyhow::anyhow!("panicked"))?).collect::<Result<Vec<_>>>()
    })?;
    let sum = |of: &str| used.iter().filter(|(name, _)| *name == of).map(|(_, us)| us).sum::<u64>() as f64;
    let share = sum("less-busy") / (sum("busy") + sum("less-busy"));
    println!("the tenant with two of six busy sessions got {share:.2} of the time");
    // On a machine with more processors than busy sessions each gets all it wants.
    let fair = if std::thread::available_parallelism()?.get() < 6 { 0.4..=0.6 } else { 0.3..=0.6 };
    anyhow::ensure!(fair.contains(&share), "{share}: {used:?}");
    Ok(())
}

/// security.md 117.
fn a_disabled_tenant_is_refused_at_once(shared: &Shared) -> Result<()> {
    let admin = shared.client()?;
    let (id, client) = tenant(&admin, "disabled", &json!({}))?;
    let session = client.session(&json!({}))?;
    client.execute(&session, "python", "1")?;
    let path = format!("/v1/tenants/{id}");
    assert_eq!(admin.patch(&path, &json!({"disabled": true}))?.expect(200)["disabled"], true);
    assert_eq!(client.get("/v1/sessions")?.problem(403), "forbidden");
    let run = json!({"language": "python", "code": "1"});
    assert_eq!(client.post("/v1/run", &run)?.problem(403), "forbidden");
    admin.patch(&path, &json!({"disabled": false}))?.expect(200);
    // Its sessions went with it.
    let shown = client.close(&session)?;
    assert_eq!(shown["close_reason"], "disabled", "{shown}");
    client.post("/v1/run", &run)?.expect(200);
    let own = admin.get("/v1/tenants?limit=1000")?.expect(200);
    let own =
        own["items"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "default").cloned());
    let own = own.context("default")?["id"].as_str().context("id")?.to_owned();
    let locked_out = admin.patch(&format!("/v1/tenants/{own}"), &json!({"disabled": true}))?;
    assert_eq!(locked_out.problem(409), "conflict");
    Ok(())
}

/// security.md 117: what was recorded decides, and a higher budget holds at once.
fn a_tenant_over_its_budget_is_refused_at_once(shared: &Shared) -> Result<()> {
    let admin = shared.client()?;
    let (id, client) = tenant(&admin, "poor", &json!({"budget_picos": "1"}))?;
    let run = json!({"language": "python", "code": "sum(range(10000))"});
    client.post("/v1/run", &run)?.expect(200);
    let refused = client.post("/v1/run", &run)?;
    assert_eq!(refused.problem(429), "quota_exceeded");
    assert_eq!(client.post("/v1/sessions", &json!({}))?.problem(429), "quota_exceeded");
    client.get("/v1/usage")?.expect(200);
    let path = format!("/v1/tenants/{id}");
    let shown = admin.get(&path)?.expect(200);
    assert!(shown["spent_picos"].as_str().is_some_and(|spent| spent != "0"), "{shown}");
    admin.patch(&path, &json!({"quotas": {"budget_picos": "1000000000000"}}))?.expect(200);
    client.post("/v1/run", &run)?.expect(200);
    Ok(())
}

/// security.md 39, 40 and 100.
fn a_hundred_creates_at_once_give_exactly_the_quota(shared: &Shared) -> Result<()> {
    let (_, client) = tenant(&shared.client()?, "capped", &json!({"sessions": 10}))?;
    let racers: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || client.post("/v1/sessions", &json!({})))
        })
        .collect();
    let mut made = Vec::new();
    for racer in racers {
        let answer = racer.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        if answer.status == 201 {
            made.push(answer.json()["id"].as_str().context("id")?.to_owned());
        } else {
            assert_eq!(answer.problem(429), "quota_exceeded");
            assert_eq!(answer.header("retry-after"), Some("5"));
        }
    }
    assert_eq!(made.len(), 10);
    let mut times: Vec<Duration> = (0..20)
        .map(|_| {
            let begun = Instant::now();
            client.post("/v1/sessions", &json!({})).map(|answer| (answer.status, begun.elapsed()))
        })
        .map(|outcome| outcome.map(|(status, time)| if status == 429 { time } else { Duration::MAX }))
        .collect::<Result<_>>()?;
    times.sort_unstable();
    assert!(times[times.len() / 4] < Duration::from_millis(50), "a refusal takes no time: {times:?}");
    for id in made {
        client.close(&id)?;
    }
    Ok(())
}

fn sums_of_limits_have_quotas(shared: &Shared) -> Result<()> {
    let admin = shared.client()?;
    for (name, quota, limit) in
        [("memory", "memory_bytes", "memory_bytes"), ("disk", "workspace_bytes", "disk_bytes")]
    {
        let (_, client) = tenant(&admin, name, &json!({quota: 100 << 20}))?;
        let request = json!({"limits": {limit: 60 << 20}});
        let first = client.session(&request)?;
        let refused = client.post("/v1/sessions", &request)?;
        assert_eq!(refused.problem(429), "quota_exceeded");
        assert!(refused.text().contains(quota), "{}", refused.text());
        let small = client.session(&json!({"limits": {limit: 40 << 20}}))?;
        client.close(&first)?;
        client.close(&client.session(&request)?)?;
        client.close(&small)?;
    }
    Ok(())
}

fn cells_and_browsers_have_quotas(shared: &Shared) -> Result<()> {
    let admin = shared.client()?;
    let (id, client) = tenant(&admin, "cells", &json!({"cells": 2}))?;
    let (one, other) = (client.session(&json!({}))?, client.session(&json!({}))?);
    client.execute(&one, "python", "1")?;
    client.execute(&one, "javascript", "1")?;
    let run = |session: &str, language: &str| {
        client
            .post(&format!("/v1/sessions/{session}/executions"), &json!({"language": language, "code": "1"}))
    };
    let refused = run(&other, "python")?;
    assert_eq!(refused.problem(429), "quota_exceeded");
    anyhow::ensure!(refused.text().contains("cells"), "{}", refused.text());
    assert_eq!(client.put(&format!("/v1/sessions/{other}/files/a"), "b")?.problem(429), "quota_exceeded");
    // Those that are there go on.
    run(&one, "python")?.expect(200);
    client.close(&one)?;
    run(&other, "python")?.expect(200);
    client.put(&format!("/v1/sessions/{other}/files/a"), "b")?.expect(201);
    admin.patch(&format!("/v1/tenants/{id}"), &json!({"quotas": {"browsers": 1}}))?.expect(200);
    // It had quotas of cells before: what is not said any more does not hold.
    let browsers: Vec<String> =
        (0..2).map(|_| client.session(&json!({"browser": {}}))).collect::<Result<_>>()?;
    let look = |session: &str| {
        let actions = json!({"actions": [{"type": "snapshot"}]});
        client.post(&format!("/v1/sessions/{session}/browser/actions"), &actions)
    };
    look(&browsers[0])?.expect(200);
    let refused = look(&browsers[1])?;
    assert_eq!(refused.problem(429), "quota_exceeded");
    anyhow::ensure!(refused.text().contains("browsers"), "{}", refused.text());
    look(&browsers[0])?.expect(200);
    client.delete(&format!("/v1/sessions/{}/browser", browsers[0]))?;
    look(&browsers[1])?.expect(200);
    for session in browsers.iter().chain([&other]) {
        client.close(session)?;
    }
    Ok(())
}

/// A site that sends so many bytes to whoever asks.
fn site(bytes: usize) -> Result<String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let host = listener.local_addr()?.to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok() {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n");
                let _gone =
                    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'x'; bytes]));
            }
        }
    });
    Ok(host)
}

fn bytes_to_and_from_the_network_have_a_quota(_: &Shared) -> Result<()> {
    let host = site(100_000)?;
    let server = Server::start(Options::default().with("egress", "allow_private", &format!("[\"{host}\"]")))?;
    let admin = server.client()?;
    let (id, client) = tenant(&admin, "far", &json!({"egress_bytes": 150_000}))?;
    let network = json!({"mode": "allow", "hosts": [host]});
    let session = client.session(&json!({"network": network}))?;
    let get = || {
        // An address of loopback is the session's own, unless the way out is asked for it.
        let url = format!("http://{host}/");
        let curl = ["curl", "-s", "--noproxy", "", "-x", "http://127.0.0.1:3128", &url];
        let command = json!({"command": curl, "timeout_seconds": 30});
        client.post(&format!("/v1/sessions/{session}/executions"), &command)
    };
    for _ in 0..2 {
        let got = get()?.expect(200);
        assert_eq!(got["stdout"].as_str().map(str::len), Some(100_000), "{got:#}");
    }
    let refused = get()?;
    assert_eq!(refused.problem(429), "quota_exceeded");
    anyhow::ensure!(refused.text().contains("egress_bytes"), "{}", refused.text());
    assert_eq!(client.post("/v1/sessions", &json!({}))?.problem(429), "quota_exceeded");
    admin.patch(&format!("/v1/tenants/{id}"), &json!({"quotas": {"egress_bytes": 1_000_000}}))?.expect(200);
    get()?.expect(200);
    server.stop()?;
    Ok(())
}

fn what_cannot_be_kept_to_is_refused(shared: &Shared) -> Result<()> {
    let admin = shared.client()?;
    for (field, value) in [
        ("cells", json!(0)),
        ("browsers", json!("1")),
        ("egress_bytes", json!(0)),
        ("sessions", json!(0)),
        ("sessions", json!(-1)),
        ("sessions", json!(1.5)),
        ("executions_per_second", json!(1_000_001)),
        ("budget_picos", json!(5)),
        ("budget_picos", json!("-5")),
        ("budget_picos", json!("99999999999999999999")),
        ("wishes", json!(3)),
    ] {
        let body = json!({"name": "never", "quotas": {field: value}});
        let refused = admin.post("/v1/tenants", &body)?;
        assert_eq!(refused.problem(422), "invalid_request", "{body}");
        assert_eq!(refused.json()["errors"][0]["field"], format!("quotas.{field}"), "{}", refused.text());
    }
    for name in [
        json!(""),
        json!("<script>"),
        json!("=cmd()"),
        json!("a\u{202e}b"),
        json!("x".repeat(10_000)),
        json!(null),
    ] {
        let refused = admin.post("/v1/tenants", &json!({"name": name}))?;
        assert_eq!(refused.json()["errors"][0]["field"], "name", "{name}");
    }
    // A key's secret is kept nowhere, so that its answer could not be given again.
    let (id, _) = tenant(&admin, "once", &json!({}))?;
    let once = admin.post_once(&format!("/v1/tenants/{id}/keys"), "k", &json!({"name": "never"}))?;
    assert_eq!(once.problem(422), "invalid_request");
    Ok(())
}

/// security.md 110: by key, whatever a header says of where it comes from.
fn whoever_asks_too_often_is_told_when_to_come_back(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default().with("rate", "requests_per_second", "50"))?;
    let admin = server.client()?;
    let (_, fast) = tenant(&admin, "fast", &json!({}))?;
    let (_, slow) = tenant(&admin, "slow", &json!({"executions_per_second": 2}))?;
    let mut refused = 0;
    for n in 0..200 {
        let origin = format!("10.0.0.{n}");
        let answer = fast.raw("GET", "/v1/prices", &[("x-forwarded-for", &origin)], Vec::new())?;
        if answer.status != 200 {
            assert_eq!(answer.problem(429), "rate_limited");
            assert_eq!(answer.header("retry-after"), Some("1"));
            refused += 1;
        }
    }
    assert!(refused > 0, "200 requests of a key that may send 50 a second");
    let session = slow.session(&json!({}))?;
    let path = format!("/v1/sessions/{session}/executions");
    let code = json!({"language": "python", "code": "1"});
    let answers: Vec<u16> = (0..10).map(|_| Ok(slow.post(&path, &code)?.status)).collect::<Result<_>>()?;
    assert!(answers.contains(&429) && answers.contains(&200), "{answers:?}");
    // Whoever waits as long as it is told is let in.
    std::thread::sleep(Duration::from_secs(1));
    slow.post(&path, &code)?.expect(200);
    fast.get("/v1/prices")?.expect(200);
    server.stop()?;
    Ok(())
}

/// A client that does not heed refusals is told twenty a second at once, and waits for the others.
fn refusals_beyond_a_rate_wait(shared: &Shared) -> Result<()> {
    let admin = shared.client()?;
    let (_, client) = tenant(&admin, "deaf", &json!({"executions_per_second": 1}))?;
    let session = client.session(&json!({}))?;
    let path = format!("/v1/sessions/{session}/executions");
    let begun = Instant::now();
    let (mut refused, mut slowest) = (0, Duration::ZERO);
    while begun.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        let answer = client.post(&path, &json!({"language": "python", "code": "1"}))?;
        if answer.status == 429 {
            refused += 1;
            slowest = slowest.max(asked.elapsed());
        }
    }
    println!("{refused} refusals in three seconds, one of them took {slowest:?}");
    // Twenty to begin with, twenty each second, and those that waited.
    anyhow::ensure!((20..=100).contains(&refused), "{refused}");
    anyhow::ensure!(slowest >= Duration::from_millis(400), "{slowest:?}");
    Ok(())
}

/// security.md 112.
fn no_other_origin_is_let_in(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let origin = [("origin", "https://evil.example"), ("access-control-request-method", "POST")];
    for (method, path) in [("OPTIONS", "/v1/run"), ("GET", "/v1/sessions"), ("GET", "/healthz")] {
        let answer = client.raw(method, path, &origin, Vec::new())?;
        let lets_in = |name: &str| name.starts_with("access-control-") || name == "set-cookie";
        assert!(!answer.headers.iter().any(|(name, _)| lets_in(name)), "{:?}", answer.headers);
        assert!(method != "OPTIONS" || answer.status == 405, "{}", answer.status);
    }
    Ok(())
}
