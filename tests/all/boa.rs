//! `"engine": "boa"`: JavaScript and TypeScript without C in the guest.

use crate::Shared;
use anchorhold_tests::Client;
use anyhow::Result;
use serde_json::{Value, json};

tests!(
    a_value_comes_back,
    an_error_has_its_line,
    state_lives_between_executions,
    files_are_shared_with_other_languages,
    typescript_runs_by_it,
    a_timeout_keeps_the_state,
    a_long_operation_loses_the_state_and_says_so,
    a_memory_bomb_ends_alone,
    deep_recursion_is_an_error,
    python_has_no_engine,
    each_engine_has_its_own_context,
    a_context_id_means_one_engine,
);

fn run(client: &Client, session: &str, code: &str) -> Result<Value> {
    client.execute_with(session, &json!({"language": "javascript", "engine": "boa", "code": code}))
}

fn text(answer: &Value) -> &str {
    answer["results"][0]["mime"]["text/plain"].as_str().unwrap_or_default()
}

fn a_value_comes_back(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let code = "console.log('by', process.release.name); ({ answer: [await Promise.resolve(42)] })";
    let answer = run(&client, &session, code)?;
    assert_eq!((&answer["status"], &answer["stdout"]), (&json!("succeeded"), &json!("by boa\n")), "{answer}");
    assert_eq!(text(&answer), "{ answer: [ 42 ] }");
    assert_eq!(answer["results"][0]["mime"]["application/json"], json!({"answer": [42]}));
    client.close(&session)?;
    Ok(())
}

fn an_error_has_its_line(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let answer = run(&client, &session, "function inner() {\n  throw new TypeError('boom');\n}\n\ninner();")?;
    assert_eq!((&answer["status"], &answer["state_lost"]), (&json!("failed"), &json!(false)), "{answer}");
    assert_eq!(
        (&answer["error"]["name"], &answer["error"]["message"]),
        (&json!("TypeError"), &json!("boom"))
    );
    let traceback = answer["error"]["traceback"].as_str().unwrap_or_default();
    assert!(traceback.contains("inner (<execution 1>:2:"), "{traceback}");
    assert!(traceback.contains("(<execution 1>:5:"), "{traceback}");
    client.close(&session)?;
    Ok(())
}

fn state_lives_between_executions(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    run(&client, &session, "let x = 40; const step = 1; function next() { return x += step; }")?;
    assert_eq!(text(&run(&client, &session, "next(); next()")?), "42");
    // A cell that runs again declares its names again; functions see the new ones.
    let again = run(&client, &session, "const step = 10; let later = await Promise.resolve('yes'); next()")?;
    assert_eq!(text(&again), "52", "{again}");
    assert_eq!(text(&run(&client, &session, "later")?), "'yes'");
    client.close(&session)?;
    Ok(())
}

fn files_are_shared_with_other_languages(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    client.execute(&session, "python", "open('note.txt', 'w').write('from python')")?;
    let code =
        "import fs from 'fs'; fs.appendFileSync('note.txt', ' and boa'); fs.readFileSync('note.txt', 'utf8')";
    assert_eq!(text(&run(&client, &session, code)?), "'from python and boa'");
    let read = client.execute(&session, "javascript", "require('fs').readFileSync('note.txt', 'utf8')")?;
    assert_eq!(text(&read), "'from python and boa'");
    client.close(&session)?;
    Ok(())
}

fn typescript_runs_by_it(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let code = "enum Colour { Red = 'red' }\nconst paint = (c: Colour): string => `${process.release.name} ${c}`;\npaint(Colour.Red)";
    let request = json!({"language": "typescript", "engine": "boa", "code": code});
    assert_eq!(text(&client.execute_with(&session, &request)?), "'boa red'");
    client.close(&session)?;
    Ok(())
}

fn a_timeout_keeps_the_state(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    run(&client, &session, "let kept = 7")?;
    let endless = "try { for (;;) { try { while (true) kept = 7 } catch { } } } finally { kept = 0 }";
    for code in [endless, "await null; for (;;) ;", "await new Promise((done) => setTimeout(done, 3600000))"]
    {
        let request =
            json!({"language": "javascript", "engine": "boa", "code": code, "timeout_seconds": 0.3});
        let answer = client.execute_with(&session, &request)?;
        assert_eq!(
            (&answer["status"], &answer["state_lost"]),
            (&json!("timed_out"), &json!(false)),
            "{answer}"
        );
        assert_eq!(text(&run(&client, &session, "kept")?), "7", "after {code}");
    }
    client.close(&session)?;
    Ok(())
}

/// A long operation inside the engine: only a trap ends it, and the interpreter with it.
fn a_long_operation_loses_the_state_and_says_so(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    run(&client, &session, "let kept = 7")?;
    let code = "'x'.repeat(1e6).match(/(x+x+)+y/)";
    let request = json!({"language": "javascript", "engine": "boa", "code": code, "timeout_seconds": 0.3});
    let answer = client.execute_with(&session, &request)?;
    assert_eq!((&answer["status"], &answer["state_lost"]), (&json!("timed_out"), &json!(true)), "{answer}");
    assert_eq!(text(&run(&client, &session, "typeof kept")?), "'undefined'");
    client.close(&session)?;
    Ok(())
}

fn a_memory_bomb_ends_alone(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({"limits": {"memory_bytes": 256 << 20, "disk_bytes": 16 << 20}}))?;
    client.execute(&session, "javascript", "let other = 'well'")?;
    // The engine gives up a buffer that does not fit; everything else that does not is its end.
    let buffers = "let kept = 7, hoard = []; for (;;) hoard.push(new Uint8Array(1 << 20))";
    let answer = run(&client, &session, buffers)?;
    assert_eq!((&answer["status"], &answer["state_lost"]), (&json!("failed"), &json!(false)), "{answer}");
    assert_eq!(
        (&answer["error"]["name"], &answer["limits_hit"]),
        (&json!("RangeError"), &json!(["memory"])),
        "{answer}"
    );
    assert_eq!(text(&run(&client, &session, "hoard = null; kept")?), "7");
    let answer = run(&client, &session, "let text = 'x'.repeat(1 << 20); for (;;) text += text")?;
    assert_eq!(
        (&answer["status"], &answer["limit"]),
        (&json!("limit_exceeded"), &json!("memory")),
        "{answer}"
    );
    assert_eq!(answer["state_lost"], true);
    assert_eq!(text(&client.execute(&session, "javascript", "other")?), "'well'");
    assert_eq!(text(&run(&client, &session, "1 + 1")?), "2");
    client.close(&session)?;
    Ok(())
}

fn deep_recursion_is_an_error(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    run(&client, &session, "let kept = 7")?;
    for code in [
        "(function f() { return f() })()",
        "const o = { get x() { return this.x } }; o.x",
        "const map = (n) => [n].map(() => map(n + 1)); map(0)",
        "let deep = []; for (let i = 0; i < 100000; i++) deep = [deep]; JSON.stringify(deep)",
        "eval('['.repeat(100000))",
    ] {
        let answer = run(&client, &session, code)?;
        assert_eq!((&answer["status"], &answer["state_lost"]), (&json!("failed"), &json!(false)), "{answer}");
    }
    assert_eq!(text(&run(&client, &session, "kept")?), "7");
    client.close(&session)?;
    Ok(())
}

fn python_has_no_engine(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let request = json!({"language": "python", "engine": "boa", "code": "1"});
    let path = format!("/v1/sessions/{session}/executions");
    assert_eq!(client.post(&path, &request)?.problem(422), "invalid_request");
    client.close(&session)?;
    Ok(())
}

fn each_engine_has_its_own_context(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let boa = run(&client, &session, "var mine = 'boa'")?;
    let quickjs = client.execute(&session, "javascript", "typeof mine")?;
    assert_eq!(text(&quickjs), "'undefined'");
    assert_eq!(boa["context"], quickjs["context"]);
    assert_ne!(boa["context_id"], quickjs["context_id"]);
    assert_eq!(text(&run(&client, &session, "mine")?), "'boa'");
    client.close(&session)?;
    Ok(())
}

fn a_context_id_means_one_engine(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let made = client.post(
        &format!("/v1/sessions/{session}/contexts"),
        &json!({"language": "javascript", "engine": "boa", "name": "work"}),
    )?;
    let id = made.expect(201)["id"].clone();
    let ask = |engine: Value| {
        let code = "process.release.name";
        json!({"language": "javascript", "engine": engine, "context": id, "code": code})
    };
    for engine in [json!("boa"), Value::Null] {
        assert_eq!(text(&client.execute_with(&session, &ask(engine))?), "'boa'");
    }
    let path = format!("/v1/sessions/{session}/executions");
    assert_eq!(client.post(&path, &ask(json!("quickjs")))?.problem(422), "invalid_request");
    client.close(&session)?;
    Ok(())
}
