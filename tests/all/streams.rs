//! What an execution says while it runs: events, positions, input, signals, the background.

use crate::Shared;
use anchorhold_tests::{Client, Event, Options, Server, host};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

tests!(
    events_come_in_order_while_it_runs,
    a_stream_goes_on_from_any_position,
    a_stream_survives_the_api,
    what_was_cut_is_a_gap,
    the_background_is_not_waited_for,
    a_background_execution_with_a_key_runs_once,
    input_follows_while_it_runs,
    input_that_follows_is_bounded,
    a_stream_ends_with_its_warden,
    signals_end_programs,
    a_disconnect_is_what_was_asked_for,
    a_slow_reader_costs_nothing,
    output_before_a_kill_is_delivered,
    a_run_can_be_streamed,
    wrong_requests_are_refused,
);

fn executions(session: &str) -> String {
    format!("/v1/sessions/{session}/executions")
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}

/// All that a stream of this name says.
fn text(events: &[Event], name: &str) -> String {
    events.iter().filter(|e| e.name == name).filter_map(|e| e.data["text"].as_str()).collect()
}

fn events_come_in_order_while_it_runs(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let code = "import sys, time\nfor n in range(3):\n    print(n, flush=True)\n    print('e', n, file=sys.stderr, flush=True)\n    time.sleep(0.2)\n'done'";
    let begun = Instant::now();
    let mut arrived = Vec::new();
    let mut events = Vec::new();
    for event in client.stream(&executions(&session), &json!({"language": "python", "code": code}))? {
        arrived.push(begun.elapsed());
        events.push(event?);
    }
    assert_eq!(names(&events).first(), Some(&"start"));
    assert_eq!(names(&events).last(), Some(&"end"));
    assert_eq!(text(&events, "stdout"), "0\n1\n2\n");
    assert_eq!(text(&events, "stderr"), "e 0\ne 1\ne 2\n");
    // Both streams in the order of their writing.
    let order: String = events.iter().filter_map(|e| e.data["text"].as_str()).collect();
    assert_eq!(order, "0\ne 0\n1\ne 1\n2\ne 2\n");
    assert!(events.windows(2).all(|pair| pair[0].id < pair[1].id), "{events:?}");
    assert!(events.iter().all(|event| event.data["n"] == event.id && event.data["at"].is_string()));
    let first = events.iter().position(|event| event.name == "stdout").context("no output")?;
    assert!(arrived[first] + Duration::from_millis(300) < *arrived.last().context("nothing")?, "{arrived:?}");
    let end = &events.last().context("nothing")?.data;
    assert_eq!((&end["status"], &end["stdout"]), (&json!("succeeded"), &json!("0\n1\n2\n")));
    let value = events.iter().find(|event| event.name == "result").context("no result")?;
    assert_eq!(value.data["result"]["mime"]["text/plain"], "'done'");
    for (language, code) in [("python", "print(1)\n2"), ("javascript", "console.log(1); 2")] {
        let request = json!({"language": language, "code": code});
        let events: Vec<Event> = client.stream(&executions(&session), &request)?.collect::<Result<_>>()?;
        assert_eq!(names(&events), ["start", "stdout", "result", "end"], "{language}");
    }
    client.close(&session)?;
    Ok(())
}

fn a_stream_goes_on_from_any_position(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let code = "import time\nfor n in range(20):\n    print('ä' * (n % 5), n, flush=True)\n    time.sleep(0.02)\n1/0";
    let path = executions(&session);
    let whole: Vec<Event> =
        client.stream(&path, &json!({"language": "python", "code": code}))?.collect::<Result<_>>()?;
    let id = whole[0].data["id"].as_str().context("no id")?.to_owned();
    let said = text(&whole, "stdout");
    // The positions of what was live hold for what is stored, with whatever cuts between the pieces.
    for (at, event) in whole.iter().enumerate() {
        let rest: Vec<Event> = client.events(&session, &id, event.id)?.collect::<Result<_>>()?;
        let before = text(&whole[..=at], "stdout");
        assert_eq!(format!("{before}{}", text(&rest, "stdout")), said, "after {}", event.id);
        assert_eq!(rest.last().map(|event| &*event.name), Some("end"));
        assert!(rest.iter().filter(|e| e.name == "error").count() <= 1);
    }
    let error = whole.iter().find(|event| event.name == "error").context("no error")?;
    assert_eq!(error.data["error"]["name"], "ZeroDivisionError");
    // As a browser reconnects.
    let path = format!("{path}/{id}/events");
    let headers = [("Last-Event-ID", &*whole[2].id.to_string())];
    let answer = client.raw("GET", &path, &headers, Vec::new())?;
    assert!(answer.status == 200 && !answer.text().contains("event: start"), "{}", answer.text());
    client.close(&session)?;
    Ok(())
}

fn a_stream_survives_the_api(_: &Shared) -> Result<()> {
    let mut server = Server::start(Options::default())?;
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    let code = "import time\nfor n in range(40):\n    print('line', n, flush=True)\n    time.sleep(0.05)";
    let mut stream = client.stream(&executions(&session), &json!({"language": "python", "code": code}))?;
    let mut before = Vec::new();
    while text(&before, "stdout").lines().count() < 5 {
        before.push(stream.next().context("ended early")??);
    }
    server.kill()?;
    assert!(stream.all(|event| event.is_err() || event.is_ok_and(|e| e.name != "end")), "it was cut off");
    server.launch()?;
    let client = server.client()?;
    let id = before[0].data["id"].as_str().context("no id")?;
    let last = before.last().context("nothing")?.id;
    let after: Vec<Event> = client.events(&session, id, last)?.collect::<Result<_>>()?;
    let whole: String = (0..40).map(|n| format!("line {n}\n")).collect();
    assert_eq!(text(&before, "stdout") + &text(&after, "stdout"), whole);
    assert_eq!(after.last().context("nothing")?.data["status"], "succeeded");
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

fn what_was_cut_is_a_gap(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({"limits": {"output_bytes": 1000}}))?;
    let request = json!({"language": "python", "code": "print('x' * 2999)"});
    let events: Vec<Event> = client.stream(&executions(&session), &request)?.collect::<Result<_>>()?;
    assert_eq!(text(&events, "stdout"), "x".repeat(1000));
    let gap = events.iter().find(|event| event.name == "gap").context("no gap")?;
    assert_eq!(gap.data["bytes"], 2000);
    assert_eq!(events.last().context("nothing")?.data["truncated"], true);
    client.close(&session)?;
    Ok(())
}

/// The execution when it has ended.
fn ended(client: &Client, session: &str, id: &str) -> Result<Value> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = client.get(&format!("{}/{id}", executions(session)))?.expect(200);
        if answer["status"] != "running" || Instant::now() > end {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn the_background_is_not_waited_for(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({"limits": {"execution_seconds": 1}}))?;
    let code = "import time\ntime.sleep(1.5)\nprint('late')\nx = 1";
    let request = json!({"language": "python", "code": code, "background": true, "timeout_seconds": 10});
    let begun = Instant::now();
    let answer = client.post(&executions(&session), &request)?.expect(202);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!((&answer["status"], &answer["ended_at"]), (&json!("running"), &Value::Null));
    let id = answer["id"].as_str().context("no id")?;
    let answer = ended(&client, &session, id)?;
    assert_eq!((&answer["status"], &answer["stdout"]), (&json!("succeeded"), &json!("late\n")), "{answer}");
    // Longer than its session lives.
    let request = json!({"language": "python", "code": "1", "background": true, "timeout_seconds": 100_000});
    assert_eq!(client.post(&executions(&session), &request)?.problem(422), "invalid_request");
    client.close(&session)?;
    Ok(())
}

fn a_background_execution_with_a_key_runs_once(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let code = "import time\nopen('runs', 'a').write('x')\ntime.sleep(0.3)";
    let request = json!({"language": "python", "code": code, "background": true});
    let first = client.post_once(&executions(&session), "once", &request)?.expect(202);
    let again = client.post_once(&executions(&session), "once", &request)?.expect(202);
    assert_eq!(first["id"], again["id"]);
    let answer = ended(&client, &session, first["id"].as_str().context("no id")?)?;
    assert_eq!(answer["status"], "succeeded");
    let late = client.post_once(&executions(&session), "once", &request)?.expect(202);
    assert_eq!((&late["id"], &late["status"]), (&first["id"], &json!("succeeded")));
    assert_eq!(client.get(&format!("/v1/sessions/{session}/files/runs"))?.text(), "x");
    client.close(&session)?;
    Ok(())
}

fn input_follows_while_it_runs(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let code = "name = input('name? ')\nprint('hello', name)\nimport sys\nprint(len(sys.stdin.read()))";
    let request = json!({"language": "python", "code": code, "stdin": null});
    let mut stream = client.stream(&executions(&session), &request)?;
    let mut events = Vec::new();
    // The question comes before the answer is there.
    while !text(&events, "stdout").contains("name? ") {
        events.push(stream.next().context("ended early")??);
    }
    let id = events[0].data["id"].as_str().context("no id")?.to_owned();
    let path = format!("{}/{id}/stdin", executions(&session));
    client.post(&path, &json!({"text": "Ada\nxyz"}))?.expect(200);
    client.post(&path, &json!({"base64": "AAEC", "eof": true}))?.expect(200);
    let rest: Vec<Event> = stream.collect::<Result<_>>()?;
    assert_eq!(text(&rest, "stdout"), "hello Ada\n6\n");
    assert_eq!(client.post(&path, &json!({"text": "late"}))?.problem(409), "conflict");
    // One that waits for ever is stopped at its time.
    let request = json!({"language": "python", "code": "input()", "stdin": null, "timeout_seconds": 0.3});
    let answer = client.execute_with(&session, &request)?;
    assert_eq!(answer["status"], "timed_out", "{answer}");
    // Without more to come there is an end.
    let answer = client.execute_with(&session, &json!({"language": "python", "code": "input()"}))?;
    assert_eq!(answer["error"]["name"], "EOFError");
    client.close(&session)?;
    Ok(())
}

fn input_that_follows_is_bounded(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let code = "import sys, time\ntime.sleep(2)\nprint(len(sys.stdin.read()))";
    let request = json!({"language": "python", "code": code, "stdin": null, "background": true});
    let begun = client.post(&executions(&session), &request)?.expect(202);
    let id = begun["id"].as_str().context("no id")?;
    let path = format!("{}/{id}/stdin", executions(&session));
    let piece = json!({"text": "x".repeat(1_000_000)});
    // It may wait for its turn when the first piece comes.
    while client.post(&path, &piece)?.status == 409 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let taken = 1 + (0..20).take_while(|_| client.post(&path, &piece).is_ok_and(|a| a.status == 200)).count();
    assert_eq!(taken, 16, "16 MiB are 16.7 pieces");
    assert_eq!(client.post(&path, &piece)?.problem(413), "payload_too_large");
    client.post(&path, &json!({"eof": true}))?.expect(200);
    // All that was taken arrived, and nothing of what was refused.
    assert_eq!(ended(&client, &session, id)?["stdout"], "16000000\n");
    client.close(&session)?;
    Ok(())
}

/// Waits until a program has written that it is `up`.
fn is_up(client: &Client, session: &str, id: &str) -> Result<()> {
    let mut events = Vec::new();
    for event in client.events(session, id, 0)? {
        events.push(event?);
        if text(&events, "stdout").contains("up") {
            return Ok(());
        }
    }
    anyhow::bail!("it ended early: {events:?}")
}

/// Also one of an execution that an earlier process of the API began.
fn a_stream_ends_with_its_warden(_: &Shared) -> Result<()> {
    let mut server = Server::start(Options::default())?;
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    let request = json!({"language": "python", "code": "import time\nprint('up', flush=True)\ntime.sleep(50)", "background": true});
    let begun = client.post(&executions(&session), &request)?.expect(202);
    let id = begun["id"].as_str().context("no id")?.to_owned();
    is_up(&client, &session, &id)?;
    server.kill()?;
    server.launch()?;
    let mut stream = server.client()?.events(&session, &id, 0)?;
    let mut events = Vec::new();
    while !text(&events, "stdout").contains("up") {
        events.push(stream.next().context("ended early")??);
    }
    let warden = server.warden_pid().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    rustix::process::kill_process(warden.context("no warden")?, rustix::process::Signal::KILL)?;
    let begun = Instant::now();
    let end = stream.last().context("nothing")??;
    assert_eq!((&*end.name, &end.data["status"]), ("end", &json!("lost")), "{end:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    server.stop()?;
    Ok(())
}

fn signals_end_programs(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    client.execute(&session, "python", "kept = 1")?;
    for (signal, state_lost) in [("SIGINT", false), ("SIGTERM", false), ("SIGKILL", true)] {
        let code = "print('up', flush=True)\nwhile True: pass";
        let request = json!({"language": "python", "code": code, "background": true});
        let begun = client.post(&executions(&session), &request)?.expect(202);
        let id = begun["id"].as_str().context("no id")?;
        is_up(&client, &session, id)?;
        let path = format!("{}/{id}/signal", executions(&session));
        let answer = client.post(&path, &json!({"signal": signal}))?.expect(200);
        assert_eq!(answer["status"], "cancelled", "{answer}");
        assert_eq!(answer["state_lost"], state_lost, "{signal}: {answer}");
    }
    client.close(&session)?;
    Ok(())
}

fn a_disconnect_is_what_was_asked_for(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let code = "import time\nprint('begun', flush=True)\ntime.sleep(1)\nprint('end')";
    for (choice, expected) in [("cancel", "cancelled"), ("continue", "succeeded")] {
        let request = json!({"language": "python", "code": code, "on_disconnect": choice});
        let mut stream = client.stream(&executions(&session), &request)?;
        let start = stream.next().context("nothing")??;
        while stream.next().context("ended early")??.name != "stdout" {}
        drop(stream);
        let answer = ended(&client, &session, start.data["id"].as_str().context("no id")?)?;
        assert_eq!(answer["status"], expected, "{choice}: {answer}");
    }
    client.close(&session)?;
    Ok(())
}

/// A client that reads nothing: the server holds no more for it, and others are served.
fn a_slow_reader_costs_nothing(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default())?;
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    let key = std::fs::read_to_string(server.data_dir().join("admin.key"))?;
    let body = json!({"language": "python", "code": "for n in range(1000): print('x' * 15_000)"}).to_string();
    let request = format!(
        "POST {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\nContent-Length: {}\r\n\r\n{body}",
        executions(&session),
        key.trim(),
        body.len()
    );
    let resident =
        || host::status(server.pid(), "VmRSS").and_then(|kb| kb.split(' ').next()?.parse::<u64>().ok());
    let before = resident().context("no memory")?;
    let mut sockets = Vec::new();
    for _ in 0..8 {
        let mut socket = std::net::TcpStream::connect(server.base().trim_start_matches("http://"))?;
        socket.write_all(request.as_bytes())?;
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        sockets.push(socket);
    }
    // Each of the eight wrote 15 MB; a byte a second is read of it.
    let quick = client.session(&json!({}))?;
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(client.execute(&quick, "python", "1 + 1")?["status"], "succeeded");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    let list = client.get(&executions(&session))?.expect(200);
    assert!(list["items"].as_array().is_some_and(|items| items.len() == 8), "{list}");
    let grown = resident().context("no memory")?.saturating_sub(before);
    // At most one copy of an output while it is stored, and what allocators keep.
    assert!(grown < 200_000, "{grown} KiB more");
    drop(sockets);
    client.close(&session)?;
    server.stop()?;
    Ok(())
}

fn output_before_a_kill_is_delivered(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    // A sort of this is one long step that no interrupt ends.
    let code = "import sys\nprint('one', flush=True)\nprint('two', file=sys.stderr, flush=True)\nx = list(range(10**7))\nwhile True: x.sort(key=lambda n: -n)";
    let request = json!({"language": "python", "code": code, "timeout_seconds": 0.5});
    let events: Vec<Event> = client.stream(&executions(&session), &request)?.collect::<Result<_>>()?;
    assert_eq!((text(&events, "stdout"), text(&events, "stderr")), ("one\n".into(), "two\n".into()));
    let end = &events.last().context("nothing")?.data;
    assert!(["timed_out", "limit_exceeded"].contains(&end["status"].as_str().unwrap_or_default()), "{end}");
    client.close(&session)?;
    Ok(())
}

fn a_run_can_be_streamed(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let request = json!({
        "language": "python", "code": "print(open('in').read())\nopen('out', 'w').write('bye')",
        "files": [{"path": "in", "content": "hi"}], "return_files": ["out"],
    });
    let events: Vec<Event> = client.stream("/v1/run", &request)?.collect::<Result<_>>()?;
    assert_eq!(text(&events, "stdout"), "hi\n");
    let end = &events.last().context("nothing")?.data;
    assert_eq!(end["files"][0]["content_base64"], "Ynll", "{end}");
    Ok(())
}

fn wrong_requests_are_refused(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let done = client.execute(&session, "python", "1")?;
    let id = done["id"].as_str().context("no id")?;
    let path = executions(&session);
    for (route, body) in [
        ("signal", json!({})),
        ("signal", json!({"signal": "SIGSTOP"})),
        ("stdin", json!({})),
        ("stdin", json!({"text": "a", "base64": "YQ=="})),
        ("stdin", json!({"base64": "!"})),
    ] {
        assert_eq!(client.post(&format!("{path}/{id}/{route}"), &body)?.problem(422), "invalid_request");
    }
    let unknown = "exe_00000000000000000000000000";
    for route in ["signal", "stdin"] {
        let body = if route == "signal" { json!({"signal": "SIGINT"}) } else { json!({"text": "a"}) };
        let problem = client.post(&format!("{path}/{unknown}/{route}"), &body)?.problem(404);
        assert_eq!(problem, "execution_not_found", "{route}");
    }
    assert_eq!(client.get(&format!("{path}/{unknown}/events"))?.problem(404), "execution_not_found");
    assert_eq!(client.get(&format!("{path}/{id}/events?after=x"))?.problem(422), "invalid_request");
    let run = json!({"language": "python", "code": "1", "background": true});
    assert_eq!(client.post("/v1/run", &run)?.problem(422), "invalid_request");
    client.close(&session)?;
    Ok(())
}
