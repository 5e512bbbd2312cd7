//! Running code: what a program prints, returns, keeps and raises.

use crate::Shared;
use anyhow::Result;
use serde_json::{Value, json};

tests!(
    python_keeps_variables_and_returns_the_last_value,
    javascript_keeps_variables_and_returns_the_last_value,
    contexts_are_apart,
    both_languages_see_the_same_files,
    an_error_has_name_message_and_line,
    a_syntax_error_has_its_position,
    exit_codes_are_reported,
    standard_input_is_read,
    top_level_await_and_asyncio,
    time_zones_have_data,
    environment_reaches_the_program,
    what_a_guest_lacks_names_the_native_runtime,
    run_is_a_whole_life,
    an_execution_can_be_read_again,
    reset_context_forgets,
    odd_output_stays_valid_json,
    odd_results_leave_the_interpreter_alive,
    results_that_never_end_are_stopped,
);

fn text(answer: &Value) -> &str {
    answer["results"][0]["mime"]["text/plain"].as_str().unwrap_or_default()
}

fn python_keeps_variables_and_returns_the_last_value(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let first = client.execute(&session, "python", "x = 41\nprint('hello')")?;
    assert_eq!((&first["status"], &first["stdout"]), (&json!("succeeded"), &json!("hello\n")));
    assert_eq!(first["results"], json!([]));
    let second = client.execute(&session, "python", "x + 1")?;
    assert_eq!(text(&second), "42");
    assert_eq!(second["results"][0]["main"], true);
    assert_eq!(second["context_id"], first["context_id"]);
    client.close(&session)?;
    Ok(())
}

fn javascript_keeps_variables_and_returns_the_last_value(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let first = client.execute(&session, "javascript", "let x = 41; console.log('hello %d', x)")?;
    assert_eq!((&first["status"], &first["stdout"]), (&json!("succeeded"), &json!("hello 41\n")));
    let second = client.execute(&session, "javascript", "x + 1")?;
    assert_eq!(text(&second), "42");
    client.close(&session)?;
    Ok(())
}

fn contexts_are_apart(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    for context in ["a", "b"] {
        let request =
            json!({"language": "python", "context": context, "code": format!("name = '{context}'")});
        client.execute_with(&session, &request)?;
    }
    for context in ["a", "b"] {
        let request = json!({"language": "python", "context": context, "code": "name"});
        assert_eq!(text(&client.execute_with(&session, &request)?), format!("'{context}'"));
    }
    let none = client.execute(&session, "python", "name")?;
    assert_eq!(none["error"]["name"], "NameError");
    client.close(&session)?;
    Ok(())
}

fn both_languages_see_the_same_files(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let wrote = client.execute(&session, "python", "open('note.txt', 'w').write('from python')")?;
    assert_eq!(wrote["status"], "succeeded", "{wrote}");
    let read = client.execute(
        &session,
        "javascript",
        "require('fs').readFileSync('/workspace/note.txt', 'utf8')",
    )?;
    assert_eq!(text(&read), "'from python'");
    let api = client.get(&format!("/v1/sessions/{session}/files/note.txt"))?;
    assert_eq!((api.status, api.text().as_str()), (200, "from python"));
    let temporary =
        client.execute(&session, "python", "open('/tmp/t', 'w').write('x'); open('/tmp/t').read()")?;
    assert_eq!(text(&temporary), "'x'");
    client.close(&session)?;
    Ok(())
}

fn an_error_has_name_message_and_line(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let python = client.execute(&session, "python", "def f():\n    return 1 / 0\n\nf()")?;
    assert_eq!(
        (&python["status"], &python["error"]["name"]),
        (&json!("failed"), &json!("ZeroDivisionError"))
    );
    let traceback = python["error"]["traceback"].to_string();
    assert!(traceback.contains("line 2") && traceback.contains("line 4"), "{traceback}");
    let javascript =
        client.execute(&session, "javascript", "function f() {\n  throw new TypeError('no')\n}\nf()")?;
    assert_eq!(
        (&javascript["error"]["name"], &javascript["error"]["message"]),
        (&json!("TypeError"), &json!("no"))
    );
    assert!(javascript["error"]["traceback"].to_string().contains(":2"), "{javascript}");
    // The interpreter goes on.
    assert_eq!(text(&client.execute(&session, "python", "1 + 1")?), "2");
    client.close(&session)?;
    Ok(())
}

fn a_syntax_error_has_its_position(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let python = client.execute(&session, "python", "x = 1\ny = = 2")?;
    assert_eq!(python["error"]["name"], "SyntaxError");
    assert!(python["error"].to_string().contains("line 2"), "{python}");
    let javascript = client.execute(&session, "javascript", "let a = 1\nlet = = 2")?;
    assert_eq!(javascript["error"]["name"], "SyntaxError");
    assert!(javascript["error"]["traceback"].to_string().contains(":2"), "{javascript}");
    client.close(&session)?;
    Ok(())
}

fn exit_codes_are_reported(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    for (language, code) in [("python", "import sys; sys.exit(3)"), ("javascript", "process.exit(3)")] {
        let answer = client.execute(&session, language, code)?;
        assert_eq!((&answer["status"], &answer["exit_code"]), (&json!("failed"), &json!(3)), "{answer}");
    }
    let fine = client.execute(&session, "python", "import sys; sys.exit(0)")?;
    assert_eq!(fine["status"], "succeeded", "{fine}");
    client.close(&session)?;
    Ok(())
}

fn standard_input_is_read(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let request =
        json!({"language": "python", "code": "a = input()\nb = input()\na + b", "stdin": "one\ntwo\n"});
    assert_eq!(text(&client.execute_with(&session, &request)?), "'onetwo'");
    let empty = client.execute(&session, "python", "input()")?;
    assert_eq!(empty["error"]["name"], "EOFError");
    client.close(&session)?;
    Ok(())
}

fn top_level_await_and_asyncio(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let code = "import asyncio\nasync def f(n):\n    await asyncio.sleep(0.01)\n    return n\nawait asyncio.gather(f(1), f(2))";
    assert_eq!(text(&client.execute(&session, "python", code)?), "[1, 2]");
    assert_eq!(text(&client.execute(&session, "python", "asyncio.run(f(3))")?), "3");
    let code = "const wait = ms => new Promise(done => setTimeout(done, ms)); await wait(5); await Promise.resolve(7)";
    assert_eq!(text(&client.execute(&session, "javascript", code)?), "7");
    client.close(&session)?;
    Ok(())
}

fn time_zones_have_data(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let code = "from zoneinfo import ZoneInfo\nfrom datetime import datetime\n\
        datetime(2026, 7, 1, tzinfo=ZoneInfo('Europe/Berlin')).isoformat()";
    assert_eq!(text(&client.execute(&session, "python", code)?), "'2026-07-01T00:00:00+02:00'");
    client.close(&session)?;
    Ok(())
}

fn environment_reaches_the_program(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({"env": {"COLOUR": "blue"}}))?;
    let code = "import os\nos.environ['COLOUR'], os.environ.get('SIZE'), os.path.expanduser('~')";
    let request = json!({"language": "python", "code": code, "env": {"SIZE": "9"}});
    assert_eq!(text(&client.execute_with(&session, &request)?), "('blue', '9', '/home/user')");
    assert_eq!(text(&client.execute(&session, "javascript", "process.env.COLOUR")?), "'blue'");
    client.close(&session)?;
    Ok(())
}

fn what_a_guest_lacks_names_the_native_runtime(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    for (language, code) in [
        ("python", "import numpy"),
        ("python", "import subprocess; subprocess.run(['ls'])"),
        ("python", "import socket; socket.socket()"),
        ("javascript", "require('http')"),
        ("javascript", "await fetch('http://example.org')"),
    ] {
        let answer = client.execute(&session, language, code)?;
        assert_eq!(answer["status"], "failed", "{code}: {answer}");
        assert!(
            answer["error"]["message"].as_str().unwrap_or_default().contains("native"),
            "{code}: {answer}"
        );
    }
    client.close(&session)?;
    Ok(())
}

fn run_is_a_whole_life(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let answer = client.post("/v1/run", &json!({"language": "python", "code": "print(1 + 1)"}))?.expect(200);
    assert_eq!((&answer["status"], &answer["stdout"]), (&json!("succeeded"), &json!("2\n")));
    let session = answer["session_id"].as_str().unwrap_or_default();
    // The answer does not wait for the end of the session.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while client.get(&format!("/v1/sessions/{session}"))?.expect(200)["status"] != "closed" {
        assert!(std::time::Instant::now() < end, "the session does not end");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(())
}

fn an_execution_can_be_read_again(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let answer = client.execute(&session, "python", "print('again')")?;
    let id = answer["id"].as_str().unwrap_or_default();
    assert_eq!(client.get(&format!("/v1/sessions/{session}/executions/{id}"))?.expect(200), answer);
    let list = client.get(&format!("/v1/sessions/{session}/executions"))?.expect(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(1));
    client.close(&session)?;
    Ok(())
}

fn reset_context_forgets(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    client.execute(&session, "python", "x = 1")?;
    let request = json!({"language": "python", "code": "'x' in globals()", "reset_context": true});
    assert_eq!(text(&client.execute_with(&session, &request)?), "False");
    client.close(&session)?;
    Ok(())
}

/// security.md 56.
fn odd_output_stays_valid_json(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    let code = "import sys, os\nos.write(1, b'\\xff\\x00\\x1b[31m')\nprint('\\ud800' .encode('utf-8', 'surrogatepass'))\nprint('end')";
    let answer = client.execute(&session, "python", code)?;
    let stdout = answer["stdout"].as_str().unwrap_or_default();
    assert!(stdout.contains('\u{fffd}') && stdout.contains('\0') && stdout.contains("end"), "{answer}");
    let long = client.execute(&session, "python", "print('x' * 1000000)")?;
    assert_eq!(long["stdout_bytes"], 1_000_001);
    client.close(&session)?;
    Ok(())
}

/// security.md 57, as far as wasm cells go.
/// security.md 57: showing a value is the program's own code, and its time.
fn results_that_never_end_are_stopped(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    for (language, prepare, code) in [
        ("python", "kept = 5", "class C:\n    def __repr__(self):\n        while True: pass\nC()"),
        ("javascript", "var kept = 5", "({ toJSON() { for (;;) {} }, toString() { for (;;) {} } })"),
        ("javascript", "var kept = 5", "new Proxy({}, { ownKeys() { for (;;) {} }, get() { for (;;) {} } })"),
    ] {
        client.execute(&session, language, prepare)?;
        let request = json!({"language": language, "code": code, "timeout_seconds": 0.5});
        let answer = client.execute_with(&session, &request)?;
        // A shower that does not ask the value has nothing to wait for.
        assert!(answer["status"] == "timed_out" || answer["status"] == "succeeded", "{code}: {answer}");
        assert!(answer["usage"]["wall_us"].as_u64().is_some_and(|us| us < 1_500_000), "{code}: {answer}");
        if answer["state_lost"] == false {
            assert_eq!(text(&client.execute(&session, language, "kept")?), "5", "{code}");
        }
    }
    client.close(&session)?;
    Ok(())
}

fn odd_results_leave_the_interpreter_alive(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    client.execute(&session, "python", "kept = 5")?;
    for code in [
        "class A:\n    def __repr__(self): raise ValueError('no')\nA()",
        "class B:\n    def __repr__(self): import sys; sys.exit(1)\nB()",
        "'x' * 50_000_000",
        "def deep(n):\n    return [] if n == 0 else [deep(n - 1)]\nx = []\nfor _ in range(100000): x = [x]\nx",
    ] {
        let answer = client.execute(&session, "python", code)?;
        assert_eq!(answer["state_lost"], false, "{code}: {answer}");
        assert!(answer.to_string().len() < 4_000_000, "{code}: the answer is too long");
    }
    assert_eq!(text(&client.execute(&session, "python", "kept")?), "5");
    client.close(&session)?;
    Ok(())
}
