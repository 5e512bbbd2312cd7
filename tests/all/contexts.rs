//! Contexts: named, prepared, restarted, ended; each a queue of its own.

use crate::Shared;
use anchorhold_tests::{Client, Options, Server};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

tests!(
    contexts_are_listed,
    a_prepared_context_gives_its_defaults,
    a_restart_forgets_and_cancels,
    a_deleted_context_is_gone,
    contexts_run_in_parallel,
    a_prepared_context_survives_the_api,
);

fn contexts(client: &Client, session: &str) -> Result<Vec<Value>> {
    let list = client.get(&format!("/v1/sessions/{session}/contexts"))?.expect(200);
    Ok(list["items"].as_array().context("no items")?.clone())
}

fn run(client: &Client, session: &str, context: &str, code: &str) -> Result<Value> {
    client.execute_with(session, &json!({"language": "python", "code": code, "context": context}))
}

fn value(answer: &Value) -> &str {
    answer["results"][0]["mime"]["text/plain"].as_str().unwrap_or_default()
}

fn contexts_are_listed(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    assert!(contexts(&client, &session)?.is_empty());
    let first = run(&client, &session, "b", "1")?;
    run(&client, &session, "a", "1")?;
    client.execute(&session, "javascript", "1")?;
    let all = contexts(&client, &session)?;
    let names: Vec<_> = all.iter().map(|c| (c["name"].as_str(), c["language"].as_str())).collect();
    let expected = [("a", "python"), ("b", "python"), ("default", "javascript")];
    assert_eq!(names, expected.map(|(name, language)| (Some(name), Some(language))));
    assert_eq!(all[1]["id"], first["context_id"]);
    assert!(all.iter().all(|context| context["status"] == "idle"), "{all:?}");
    client.close(&session)?;
    Ok(())
}

fn a_prepared_context_gives_its_defaults(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({"env": {"A": "session", "B": "session"}}))?;
    client.put(&format!("/v1/sessions/{session}/files/sub/f"), "x")?.expect(201);
    let path = format!("/v1/sessions/{session}/contexts");
    let request =
        json!({"language": "python", "name": "mine", "cwd": "sub", "env": {"B": "context", "C": "context"}});
    let made = client.post(&path, &request)?.expect(201);
    assert_eq!((&made["status"], &made["cwd"]), (&json!("new"), &json!("sub")));
    assert_eq!(client.post(&path, &request)?.problem(409), "conflict");
    let code = "import os\n(os.environ['A'], os.environ['B'], os.environ['C'], os.listdir('.'))";
    for context in ["mine", made["id"].as_str().context("no id")?] {
        let answer = client.execute_with(
            &session,
            &json!({"language": "python", "code": code, "context": context, "env": {"C": "execution"}}),
        )?;
        assert_eq!(value(&answer), "('session', 'context', 'execution', ['f'])", "{answer}");
    }
    for wrong in [json!({}), json!({"language": "cobol"}), json!({"language": "python", "name": "ctx_x"})] {
        assert_eq!(client.post(&path, &wrong)?.problem(422), "invalid_request");
    }
    client.close(&session)?;
    Ok(())
}

fn a_restart_forgets_and_cancels(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let kept = run(&client, &session, "other", "x = 1")?;
    let first = run(&client, &session, "default", "x = 1")?;
    let id = first["context_id"].as_str().context("no id")?;
    let restart = format!("/v1/sessions/{session}/contexts/{id}/restart");
    client.post(&restart, &json!({}))?.expect(200);
    let answer = run(&client, &session, "default", "x")?;
    assert_eq!(answer["error"]["name"], "NameError", "{answer}");
    // What runs is cancelled, what waits runs in the new interpreter.
    let path = format!("/v1/sessions/{session}/executions");
    let endless = json!({"language": "python", "code": "y = 1\nwhile True: pass", "background": true});
    let running = client.post(&path, &endless)?.expect(202);
    let end = Instant::now() + Duration::from_secs(10);
    while !contexts(&client, &session)?.iter().any(|context| context["execution_id"] == running["id"]) {
        assert!(Instant::now() < end, "it does not run");
        std::thread::sleep(Duration::from_millis(5));
    }
    let waiting = json!({"language": "python", "code": "'y' in globals()", "background": true});
    let waiting = client.post(&path, &waiting)?.expect(202);
    let all = contexts(&client, &session)?;
    let default = all.iter().find(|context| context["id"] == id).context("not listed")?;
    assert_eq!((&default["status"], &default["waiting"]), (&json!("running"), &json!(1)), "{default}");
    assert_eq!(default["execution_id"], running["id"]);
    client.post(&restart, &json!({}))?.expect(200);
    let ended = |id: &Value| -> Result<Value> {
        let id = id.as_str().context("no id")?;
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let answer = client.get(&format!("{path}/{id}"))?.expect(200);
            if answer["status"] != "running" || Instant::now() > end {
                return Ok(answer);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let cancelled = ended(&running["id"])?;
    assert_eq!((&cancelled["status"], &cancelled["state_lost"]), (&json!("cancelled"), &json!(true)));
    assert_eq!(value(&ended(&waiting["id"])?), "False");
    assert_eq!(value(&run(&client, &session, kept["context_id"].as_str().context("no id")?, "x")?), "1");
    client.close(&session)?;
    Ok(())
}

fn a_deleted_context_is_gone(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let first = run(&client, &session, "gone", "x = 1")?;
    let id = first["context_id"].as_str().context("no id")?;
    let path = format!("/v1/sessions/{session}/contexts/{id}");
    assert_eq!(client.delete(&path)?.status, 204);
    assert_eq!(client.delete(&path)?.problem(404), "context_not_found");
    assert!(contexts(&client, &session)?.is_empty());
    let request = json!({"language": "python", "code": "x", "context": id});
    let answer = client.post(&format!("/v1/sessions/{session}/executions"), &request)?;
    assert_eq!(answer.problem(404), "context_not_found");
    assert_eq!(run(&client, &session, "gone", "x")?["error"]["name"], "NameError");
    client.close(&session)?;
    Ok(())
}

fn contexts_run_in_parallel(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    for name in ["a", "b", "c", "d"] {
        run(&client, &session, name, "import time")?;
    }
    let begun = Instant::now();
    let threads: Vec<_> = ["a", "b", "c", "d"]
        .map(|name| {
            let (client, session) = (client.clone(), session.clone());
            std::thread::spawn(move || run(&client, &session, name, "time.sleep(2)"))
        })
        .into();
    for thread in threads {
        let answer = thread.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        assert_eq!(answer["status"], "succeeded");
    }
    // One after the other would take 8 s.
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    client.close(&session)?;
    Ok(())
}

fn a_prepared_context_survives_the_api(_: &Shared) -> Result<()> {
    let mut server = Server::start(Options::default())?;
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    let request = json!({"language": "python", "name": "mine", "env": {"A": "context"}});
    let made = client.post(&format!("/v1/sessions/{session}/contexts"), &request)?.expect(201);
    server.kill()?;
    server.launch()?;
    let client = server.client()?;
    let id = made["id"].as_str().context("no id")?;
    let answer = run(&client, &session, id, "import os\nos.environ['A']")?;
    assert_eq!(value(&answer), "'context'", "{answer}");
    client.close(&session)?;
    server.stop()?;
    Ok(())
}
