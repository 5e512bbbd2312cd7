//! The door for agents: MCP over HTTP as bytes; the tools of code, files and sessions.

mod client;
pub mod ends;
pub mod pages;
pub mod relay;

use crate::Shared;
use crate::tenants::tenant;
use anchorhold_tests::{Options, Server};
use anyhow::{Context as _, Result};
use client::{Mcp, NEW, OLD, id_of, initialize, python, soon};
use serde_json::{Value, json};

tests!(
    both_revisions_are_spoken,
    the_tools_are_what_the_golden_file_says,
    profiles_choose_tools,
    code_runs_and_keeps_its_variables,
    a_failing_program_is_told_as_one,
    files_go_in_and_out,
    tasks_run_in_the_background,
    commands_run_and_are_started,
    sessions_and_usage_are_told,
    mistakes_are_told_and_do_nothing,
    what_is_anothers_is_unknown,
    quotas_hold_at_this_door_too,
    a_revoked_key_is_refused,
    a_wrong_origin_or_host_is_refused,
    long_output_is_cut_and_says_so,
    images_are_images,
    long_runs_tell_of_themselves,
    every_call_is_in_the_audit_log,
);

fn both_revisions_are_spoken(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    for version in ["2024-11-05", "2025-03-26", "2025-06-18", OLD] {
        let mcp = Mcp { version: OLD, ..Mcp::without_session(&client) };
        let said = mcp.request("initialize", &initialize(version))?;
        let result = &said.last()?["result"];
        assert_eq!(
            (&result["protocolVersion"], &result["serverInfo"]["name"]),
            (&json!(version), &json!("anchorhold"))
        );
        assert!(
            result["capabilities"]["tools"].is_object() && result["instructions"].is_string(),
            "{result}"
        );
    }
    // A version that nobody knows is answered with one that both may know.
    let mcp = Mcp { version: OLD, ..Mcp::without_session(&client) };
    let said = mcp.request("initialize", &initialize("2099-01-01"))?;
    assert_eq!(said.last()?["result"]["protocolVersion"], OLD);

    let mcp = Mcp::without_session(&client);
    let said = mcp.request("server/discover", &json!({}))?;
    let versions = &said.last()?["result"]["supportedVersions"];
    assert!(
        [OLD, NEW].iter().all(|version| versions.as_array().is_some_and(|all| all.contains(&json!(version)))),
        "{versions}"
    );
    assert!(said.answer.header("mcp-session-id").is_none());
    let said = mcp.request("tools/list", &json!({}))?;
    assert!(said.last()?["result"]["tools"].is_array(), "{}", said.last()?);
    assert_eq!(said.answer.header("content-type"), Some("application/json"));

    let mcp = Mcp::begin(&client)?;
    assert_eq!(mcp.request("ping", &json!({}))?.last()?["result"], json!({}));
    assert_eq!(mcp.request("tools/unknown", &json!({}))?.last()?["error"]["code"], -32601);
    mcp.end()
}

fn the_tools_are_what_the_golden_file_says(shared: &Shared) -> Result<()> {
    let mcp = Mcp::without_session(&shared.client()?);
    let said = mcp.request("tools/list", &json!({}))?;
    let shown = format!("{:#}\n", said.last()?["result"]["tools"]);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/mcp_tools.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &shown)?;
    }
    let golden = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    assert_eq!(shown, golden, "tools as models see them");
    Ok(())
}

fn profiles_choose_tools(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let mcp = Mcp { path: "/mcp?tools=code".to_owned(), ..Mcp::without_session(&client) };
    let said = mcp.request("tools/list", &json!({}))?;
    let tools = said.last()?["result"]["tools"].as_array().context("tools")?;
    let names: Vec<_> = tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
    assert_eq!(names, ["execute_code", "run_command", "start_command", "get_task", "stop_task"]);
    // What was not chosen is not there, also for who knows its name.
    let said = mcp.request("tools/call", &json!({"name": "usage_get", "arguments": {}}))?;
    assert_eq!(said.last()?["error"]["code"], -32602);
    let mcp = Mcp { path: "/mcp?tools=kitchen".to_owned(), ..mcp };
    assert_eq!(mcp.request("tools/list", &json!({}))?.answer.problem(422), "invalid_request");
    Ok(())
}

fn code_runs_and_keeps_its_variables(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let mcp = Mcp::begin(&client)?;
    let first = mcp.done("execute_code", &python("x = 41\nprint('hello')"))?;
    assert_eq!((&first["status"], &first["stdout"]), (&json!("succeeded"), &json!("hello\n")));
    let second = mcp.done("execute_code", &python("x + 1"))?;
    assert_eq!((&second["value"], &second["session_id"]), (&json!("42"), &first["session_id"]));
    assert!(second["wall_us"].as_u64().is_some_and(|us| us > 0) && second["truncated"] == false, "{second}");
    // The same record as at the other door.
    let path =
        format!("/v1/sessions/{}/executions/{}", id_of(&second)?, second["task_id"].as_str().context("id")?);
    assert_eq!(client.get(&path)?.expect(200)["cost_picos"], second["cost_picos"]);

    let other =
        mcp.refused("execute_code", &json!({"language": "python", "code": "x", "context": "other"}))?;
    assert!(other.contains("NameError"), "{other}");
    let code = "let n: number = 6; console.log(n * 7)";
    let typescript = mcp.done("execute_code", &json!({"language": "typescript", "code": code}))?;
    assert_eq!(typescript["stdout"], "42\n");
    let input = json!({"language": "python", "code": "input()[::-1]", "stdin": "abc"});
    assert_eq!(mcp.done("execute_code", &input)?["value"], "'cba'");
    mcp.end()
}

fn a_failing_program_is_told_as_one(shared: &Shared) -> Result<()> {
    let mcp = Mcp::begin(&shared.client()?)?;
    let failed = mcp.call("execute_code", &python("print('before')\n1/0"))?;
    assert_eq!(failed["isError"], true);
    let task = &failed["structuredContent"];
    assert_eq!((&task["status"], &task["error"]["name"]), (&json!("failed"), &json!("ZeroDivisionError")));
    assert_eq!(task["stdout"], "before\n");
    let late = json!({"language": "python", "code": "while True: pass", "timeout_seconds": 0.3});
    assert_eq!(mcp.call("execute_code", &late)?["structuredContent"]["status"], "timed_out");
    mcp.end()
}

fn files_go_in_and_out(shared: &Shared) -> Result<()> {
    let mcp = Mcp::begin(&shared.client()?)?;
    let png = "iVBORw0KGgo=";
    let files = json!({"files": [
        {"path": "data/a.csv", "content": "n\n1\n2\n"},
        {"path": "/workspace/p.png", "content_base64": png},
        {"path": "b.bin", "content_base64": "AP8="},
    ]});
    let written = mcp.done("write_files", &files)?;
    assert_eq!(written["files"][0], json!({"path": "data/a.csv", "size": 6}));
    let sum = mcp.done("execute_code", &python("sum(int(n) for n in open('data/a.csv').readlines()[1:])"))?;
    assert_eq!((&sum["value"], &sum["session_id"]), (&json!("3"), &written["session_id"]));

    let read = mcp.call("read_files", &json!({"paths": ["data/a.csv", "p.png", "b.bin"]}))?;
    let listed = &read["structuredContent"]["files"];
    assert_eq!((&listed[0]["text"], &listed[0]["mime"]), (&json!("n\n1\n2\n"), &json!("text/csv")));
    assert_eq!(read["content"][1], json!({"type": "image", "data": png, "mimeType": "image/png"}));
    assert_eq!(read["content"][2]["resource"]["blob"], "AP8=");
    // One that is missing does not hide the others.
    let part = mcp.call("read_files", &json!({"paths": ["none", "b.bin"]}))?;
    assert_eq!(part["isError"], true);
    let part = &part["structuredContent"];
    assert!(part["errors"][0]["error"].as_str().is_some_and(|e| e.starts_with("file_not_found")), "{part}");
    assert_eq!(part["files"][0]["path"], "b.bin");

    // What is long is cut, says so, and is there whole as a resource.
    mcp.done("execute_code", &python("open('long.txt', 'w').write('ä' * 100_000)"))?;
    let long = mcp.call("read_files", &json!({"paths": ["long.txt"]}))?;
    let shown = &long["structuredContent"]["files"][0];
    assert_eq!((&shown["truncated"], &shown["size"]), (&json!(true), &json!(200_000)));
    assert!(shown["text"].as_str().is_some_and(|text| text.len() <= 65_536 && text.starts_with("ää")));
    assert_eq!(long["content"][1]["type"], "resource_link");
    let uri = long["content"][1]["uri"].as_str().context("uri")?;
    let whole = mcp.request("resources/read", &json!({"uri": uri}))?;
    let text = whole.last()?["result"]["contents"][0]["text"].as_str().context("text")?;
    assert_eq!(text.len(), 200_000);

    let listing = mcp.done("list_files", &json!({"recursive": true, "limit": 2}))?;
    assert_eq!(listing["next"], listing["files"][1]["path"]);
    let rest = mcp.done("list_files", &json!({"recursive": true, "after": listing["next"]}))?;
    let names: Vec<_> = [&listing, &rest]
        .iter()
        .flat_map(|page| page["files"].as_array().into_iter().flatten())
        .filter_map(|file| file["path"].as_str())
        .collect();
    assert_eq!(names, ["b.bin", "data", "data/a.csv", "long.txt", "p.png"]);
    let refused = mcp.call("remove_files", &json!({"paths": ["data", "b.bin"]}))?;
    assert_eq!(refused["structuredContent"]["removed"], json!(["b.bin"]));
    let removed = mcp.done("remove_files", &json!({"paths": ["data"], "recursive": true}))?;
    assert_eq!(removed["removed"], json!(["data"]));
    mcp.end()
}

fn tasks_run_in_the_background(shared: &Shared) -> Result<()> {
    let mcp = Mcp::begin(&shared.client()?)?;
    let code = "import time\nfor n in range(100):\n    print('line', n, flush=True)\n    time.sleep(0.05)";
    let begun = mcp.done("execute_code", &json!({"language": "python", "code": code, "background": true}))?;
    assert_eq!(begun["status"], "running");
    let task = |after: &Value, wait: f64| {
        mcp.done("get_task", &json!({"task_id": begun["task_id"], "after": after, "wait_seconds": wait}))
    };
    let (mut said, mut next) = (String::new(), begun["next"].clone());
    soon("ten lines", || {
        let now = task(&next, 0.2)?;
        assert_eq!(now["status"], "running");
        said.push_str(now["stdout"].as_str().context("stdout")?);
        next = now["next"].clone();
        Ok(said.lines().count() >= 10)
    })?;
    let stopped = mcp.done("stop_task", &json!({"task_id": begun["task_id"]}))?;
    assert_eq!(stopped["status"], "cancelled");
    // Again, and what was said behind the last position: the same execution.
    assert_eq!(mcp.done("stop_task", &json!({"task_id": begun["task_id"]}))?["status"], "cancelled");
    let end = task(&next, 5.0)?;
    assert!(end["next"].is_null() && end["status"] == "cancelled", "{end}");
    said.push_str(end["stdout"].as_str().context("stdout")?);
    assert_eq!(json!(said), stopped["stdout"]);
    assert!(said.starts_with("line 0\nline 1\n"), "{said}");
    mcp.end()
}

fn commands_run_and_are_started(shared: &Shared) -> Result<()> {
    let mcp = Mcp::begin(&shared.client()?)?;
    let line = |line: &str| json!({"command": line});
    // The first one of a server waits until what native cells are forked from is loaded.
    soon("a native cell", || Ok(mcp.call("run_command", &line("true"))?["isError"] == false))?;
    let ran = mcp.done("run_command", &json!({"command": "tr a-z A-Z | tee out; ls", "stdin": "text\n"}))?;
    assert_eq!((&ran["stdout"], &ran["exit_code"]), (&json!("TEXT\nout\n"), &json!(0)));
    let failed = mcp.call("run_command", &line("echo why >&2; exit 3"))?;
    assert_eq!((&failed["isError"], &failed["structuredContent"]["exit_code"]), (&json!(true), &json!(3)));
    assert_eq!(failed["structuredContent"]["stderr"], "why\n");
    let begun = mcp.done("start_command", &line("for n in 1 2 3; do echo $n; sleep 0.1; done; sleep 60"))?;
    assert_eq!(begun["status"], "running");
    let id = &begun["task_id"];
    soon("three lines", || {
        Ok(mcp.done("get_task", &json!({"task_id": id, "wait_seconds": 1}))?["stdout"] == "1\n2\n3\n")
    })?;
    assert_eq!(mcp.done("stop_task", &json!({"task_id": id}))?["status"], "cancelled");
    let python = json!({"language": "python", "runtime": "native", "code": "import numpy\nint(numpy.arange(4).sum())"});
    assert_eq!(mcp.done("execute_code", &python)?["value"], "6");
    mcp.end()
}

fn sessions_and_usage_are_told(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let mcp = Mcp::begin(&client)?;
    assert!(mcp.refused("session_get", &json!({}))?.starts_with("session_not_found"));
    let asked =
        json!({"name": "mine", "ttl_seconds": 60, "memory_bytes": 134_217_728, "execution_seconds": 5});
    let made = mcp.done("session_create", &asked)?;
    assert_eq!(
        (&made["status"], &made["memory_bytes"], &made["execution_seconds"]),
        (&json!("active"), &json!(134_217_728), &json!(5))
    );
    assert_eq!(made["network"], json!({"mode": "none"}));
    // It is the current one now.
    let ran = mcp.done("execute_code", &python("1"))?;
    assert_eq!(ran["session_id"], made["session_id"]);
    let shown = mcp.done("session_get", &json!({}))?;
    assert_eq!((&shown["name"], &shown["usage"]["records"]), (&json!("mine"), &json!(1)));
    let usage = mcp.done("usage_get", &json!({"group_by": "kind"}))?;
    assert!(
        usage["lines"].as_array().is_some_and(|lines| lines.iter().any(|l| l["group"] == "execution")),
        "{usage}"
    );
    assert_eq!(
        mcp.done("usage_get", &json!({"from": "2100-01-01T00:00:00Z", "group_by": "day"}))?["lines"],
        json!([])
    );
    let closed = mcp.done("session_close", &json!({}))?;
    assert_eq!((&closed["status"], &closed["session_id"]), (&json!("closed"), &made["session_id"]));
    assert!(mcp.refused("session_close", &json!({}))?.starts_with("session_not_found"));
    let again = mcp.done("session_close", &json!({"session_id": made["session_id"]}))?;
    assert_eq!(again["status"], "closed");
    // The next call makes a new one.
    assert_ne!(mcp.done("list_files", &json!({}))?["session_id"], made["session_id"]);
    mcp.end()
}

fn mistakes_are_told_and_do_nothing(shared: &Shared) -> Result<()> {
    let admin = shared.client()?;
    let (_, client) = tenant(&admin, "mcp-mistakes", &json!({}))?;
    let mcp = Mcp::begin(&client)?;
    for (tool, arguments, told) in [
        ("execute_code", json!({}), "missing field"),
        ("execute_code", json!({"language": "python"}), "missing field `code`"),
        (
            "execute_code",
            json!({"language": "cobol", "code": "1"}),
            "unknown variant `cobol`, expected one of `python`",
        ),
        ("execute_code", json!({"language": "bash", "code": "1"}), "unknown variant `bash`"),
        ("execute_code", json!({"language": "python", "code": "1", "cwd": "x"}), "unknown field `cwd`"),
        ("execute_code", json!({"language": "python", "code": 1}), "expected a string"),
        ("execute_code", json!({"language": "python", "code": "1", "context": "a b"}), "context: must be"),
        (
            "execute_code",
            json!({"language": "python", "code": "1", "timeout_seconds": -1}),
            "timeout_seconds",
        ),
        ("read_files", json!({"paths": []}), "paths: must have 1 to 64"),
        ("read_files", json!({"paths": ["../etc/passwd"]}), "invalid_path"),
        ("write_files", json!({"files": [{"path": "a"}]}), "exactly one of content"),
        ("write_files", json!({"files": [{"path": "a", "content_base64": "!"}]}), "not base64"),
        ("list_files", json!({"limit": 0}), "limit: must be"),
        ("usage_get", json!({"group_by": "moon"}), "must be one of: session, day, kind"),
        ("usage_get", json!({"from": "yesterday"}), "from: must be a time"),
        ("session_create", json!({"name": "\u{7}"}), "name: must have"),
        ("session_create", json!({"network": {"mode": "allow"}}), "network.hosts: is needed"),
        (
            "session_create",
            json!({"network": {"mode": "public", "hosts": ["a.example"]}}),
            "and for no other",
        ),
        ("session_create", json!({"network": {"mode": "allow", "hosts": ["a@b.example"]}}), "network.hosts:"),
        ("session_create", json!({"network": {"mode": "some"}}), "unknown variant `some`"),
        ("browser_click", json!({"target": {}}), "exactly one of ref"),
        ("browser_press_key", json!({"key": "NoSuchKey"}), "unknown key"),
        ("browser_file_upload", json!({"target": {"ref": "e1"}}), "missing field `paths`"),
        ("browser_wait_for", json!({}), "exactly one of text and seconds"),
        ("run_command", json!({"command": "ls", "cwd": "/etc"}), "cwd:"),
    ] {
        let text = mcp.refused(tool, &arguments)?;
        assert!(text.contains(told), "{tool} {arguments}: {text}");
        assert!(text.starts_with("invalid_"), "{text}");
    }
    let said = mcp.request("tools/call", &json!({"name": "no_such_tool", "arguments": {}}))?;
    assert_eq!(said.last()?["error"]["code"], -32602);
    for bytes in ["{", "[]", "{\"jsonrpc\":\"2.0\"}", "\"x\""] {
        let headers = mcp.headers("tools/call", None);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = client.raw("POST", "/mcp", &headers, bytes.as_bytes().to_vec())?;
        assert!((400..500).contains(&answer.status), "{bytes}: {} {}", answer.status, answer.text());
    }
    let huge = vec![b' '; 2 << 20];
    let headers = [("accept", "application/json, text/event-stream"), ("content-type", "application/json")];
    assert_eq!(client.raw("POST", "/mcp", &headers, huge)?.problem(413), "payload_too_large");
    assert_eq!(client.raw("PUT", "/mcp", &[], Vec::new())?.problem(405), "method_not_allowed");
    let wrong = Mcp::without_session(&client.with_key(Some("ah_wrong")));
    assert_eq!(wrong.request("tools/list", &json!({}))?.answer.problem(401), "unauthorized");
    assert_eq!(
        Mcp { http: client.with_key(None), ..wrong }.request("tools/list", &json!({}))?.answer.problem(401),
        "unauthorized"
    );
    // No session was made by any of this.
    assert_eq!(client.get("/v1/sessions")?.expect(200)["items"], json!([]));
    mcp.end()
}

fn what_is_anothers_is_unknown(shared: &Shared) -> Result<()> {
    let admin = shared.client()?;
    let (_, a) = tenant(&admin, "mcp-a", &json!({}))?;
    let (_, b) = tenant(&admin, "mcp-b", &json!({}))?;
    let mcp = Mcp::begin(&a)?;
    let theirs = mcp.done("execute_code", &python("secret = 1"))?;
    let session = id_of(&theirs)?;
    mcp.done("write_files", &json!({"files": [{"path": "s.txt", "content": "s"}]}))?;
    let unknown = format!("ses_{}", "0".repeat(26));

    let stranger = Mcp::begin(&b)?;
    for (tool, arguments) in [
        ("execute_code", json!({"language": "python", "code": "secret"})),
        ("get_task", json!({"task_id": theirs["task_id"]})),
        ("stop_task", json!({"task_id": theirs["task_id"]})),
        ("read_files", json!({"paths": ["s.txt"]})),
        ("write_files", json!({"files": [{"path": "s.txt", "content": "x"}]})),
        ("list_files", json!({})),
        ("remove_files", json!({"paths": ["s.txt"]})),
        ("run_command", json!({"command": "cat s.txt"})),
        ("start_command", json!({"command": "rm s.txt"})),
        ("browser_navigate", json!({"url": "about:blank"})),
        ("browser_click", json!({"target": {"ref": "e1"}})),
        ("browser_file_upload", json!({"target": {"ref": "e1"}, "paths": ["s.txt"]})),
        ("browser_take_screenshot", json!({"path": "s.txt"})),
        ("browser_close", json!({})),
        ("session_get", json!({})),
        ("session_close", json!({})),
    ] {
        let refusal = |session: &str| {
            let mut arguments = arguments.clone();
            arguments["session_id"] = session.into();
            stranger.refused(tool, &arguments)
        };
        assert_eq!(refusal(&session)?, "session_not_found: no such session", "{tool}");
        assert_eq!(refusal(&session)?, refusal(&unknown)?, "{tool}");
    }
    let read = |session: &str| -> Result<Value> {
        let uri = format!("anchorhold://{session}/s.txt");
        let said = stranger.request("resources/read", &json!({ "uri": uri }))?;
        let mut error = said.last()?["error"].clone();
        // It repeats what was asked for, and nothing else.
        assert_eq!(error["data"].take(), json!({ "uri": uri }));
        Ok(error)
    };
    assert_eq!((read(&session)?, read(&session)?["code"].clone()), (read(&unknown)?, json!(-32002)));
    // An MCP session is its tenant's, too: to ask in, to listen to, to end.
    let thief = Mcp { http: b.clone(), ..mcp.clone() };
    let none = Mcp { session: Some("00000000-0000-4000-8000-000000000000".to_owned()), ..thief.clone() };
    for method in ["tools/list", "ping"] {
        let [theft, nothing] =
            [&thief, &none].map(|mcp| mcp.request(method, &json!({})).map(|said| said.answer));
        assert_eq!((theft?.status, nothing?.status), (404, 404));
    }
    let id = mcp.session.clone().context("no MCP session")?;
    let headers = [("mcp-session-id", id.as_str()), ("accept", "text/event-stream")];
    assert_eq!(b.raw("GET", "/mcp", &headers, Vec::new())?.status, 404);
    b.raw("DELETE", "/mcp", &headers, Vec::new())?;
    assert_eq!(mcp.done("execute_code", &python("secret"))?["value"], "1");
    stranger.end()?;
    mcp.end()
}

fn quotas_hold_at_this_door_too(shared: &Shared) -> Result<()> {
    let admin = shared.client()?;
    let (_, client) = tenant(&admin, "mcp-quota", &json!({"sessions": 1}))?;
    let mcp = Mcp::begin(&client)?;
    mcp.done("execute_code", &python("1"))?;
    assert!(mcp.refused("session_create", &json!({}))?.starts_with("quota_exceeded"));
    let (id, client) = tenant(&admin, "mcp-off", &json!({}))?;
    let off = Mcp::begin(&client)?;
    admin.patch(&format!("/v1/tenants/{id}"), &json!({"disabled": true}))?.expect(200);
    assert_eq!(off.request("tools/list", &json!({}))?.answer.problem(403), "forbidden");
    mcp.end()
}

/// A key that was taken back opens nothing, neither a new MCP session nor the one that it began.
fn a_revoked_key_is_refused(shared: &Shared) -> Result<()> {
    let admin = shared.client()?;
    let (id, client) = tenant(&admin, "mcp-revoked", &json!({}))?;
    let mcp = Mcp::begin(&client)?;
    let session = id_of(&mcp.done("execute_code", &python("x = 1"))?)?;
    let keys = format!("/v1/tenants/{id}/keys");
    let key = admin.get(&keys)?.expect(200)["items"][0]["id"].as_str().context("id")?.to_owned();
    admin.delete(&format!("{keys}/{key}"))?.expect(200);
    let write = json!({"name": "write_files", "arguments": {"files": [{"path": "f", "content": "x"}]}});
    for mcp in [&mcp, &Mcp::without_session(&client)] {
        assert_eq!(mcp.request("tools/call", &write)?.answer.problem(401), "unauthorized");
        assert_eq!(mcp.request("tools/list", &json!({}))?.answer.problem(401), "unauthorized");
    }
    // Nothing was done. Another key of the tenant is let into the same MCP session.
    let key = admin.post(&keys, &json!({"name": "new"}))?.expect(201);
    let mcp = Mcp { http: admin.with_key(key["key"].as_str()), ..mcp };
    let listed = mcp.done("list_files", &json!({}))?;
    assert_eq!((&listed["session_id"], &listed["files"]), (&json!(session), &json!([])));
    mcp.end()
}

fn a_wrong_origin_or_host_is_refused(_: &Shared) -> Result<()> {
    let server =
        Server::start(Options::default().with("mcp", "origins", "https://agents.example:443").with(
            "mcp",
            "hosts",
            "agents.example",
        ))?;
    let client = server.client()?;
    let mcp = Mcp::without_session(&client);
    let message = mcp.message(1, "tools/call", &json!({"name": "execute_code", "arguments": python("1")}));
    let send = |name: &'static str, value: &str| -> Result<u16> {
        let mut headers = mcp.headers("tools/call", Some("execute_code"));
        headers.push((name, value.to_owned()));
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Ok(client.raw("POST", "/mcp", &headers, message.to_string().into_bytes())?.status)
    };
    for origin in ["https://evil.example", "null", "http://agents.example", "https://agents.example:444", "x"]
    {
        assert_eq!(send("origin", origin)?, 403, "{origin}");
    }
    for host in ["evil.example", "localhost.evil.example", "localhost"] {
        assert_eq!(send("host", host)?, 403, "{host}");
    }
    assert_eq!(client.get("/v1/sessions")?.expect(200)["items"], json!([]), "something was done");
    for (name, value) in
        [("origin", "https://agents.example"), ("host", "agents.example:8080"), ("x-none", "1")]
    {
        assert_eq!(send(name, value)?, 200, "{name}: {value}");
    }
    server.stop()?;
    Ok(())
}

fn long_output_is_cut_and_says_so(shared: &Shared) -> Result<()> {
    let mcp = Mcp::begin(&shared.client()?)?;
    let code = "print('first')\nfor n in range(40_000): print('line', n)\nprint('last')";
    let task = mcp.done("execute_code", &python(code))?;
    let shown = task["stdout"].as_str().context("stdout")?;
    assert!(task["truncated"] == true && shown.len() < 66_000, "{}", shown.len());
    assert!(shown.starts_with("first\nline 0\n") && shown.ends_with("line 39999\nlast\n"));
    assert!(shown.contains(" bytes left out …]"), "it does not say so");
    // All of it, piece by piece.
    let (mut whole, mut next) = (String::new(), json!(0));
    while !next.is_null() {
        let part = mcp.done("get_task", &json!({"task_id": task["task_id"], "after": next}))?;
        whole.push_str(part["stdout"].as_str().context("stdout")?);
        assert!(part["next"] != next, "{part}");
        next = part["next"].clone();
    }
    let all: String = (0..40_000).map(|n| format!("line {n}\n")).collect();
    assert!(whole == format!("first\n{all}last\n"), "{} bytes", whole.len());
    mcp.end()
}

fn images_are_images(shared: &Shared) -> Result<()> {
    let mcp = Mcp::begin(&shared.client()?)?;
    let code = "class F:\n    def _repr_png_(self): return b'\\x89PNG\\r\\n\\x1a\\n'\nF()";
    let result = mcp.call("execute_code", &python(code))?;
    assert_eq!(
        result["content"][1],
        json!({"type": "image", "data": "iVBORw0KGgo=", "mimeType": "image/png"})
    );
    mcp.end()
}

fn long_runs_tell_of_themselves(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let code = "import sys, time\nfor n in range(4):\n    print('step', n, flush=True)\n    time.sleep(0.15)\nprint('!', file=sys.stderr)\ntime.sleep(1.2)\n6 * 7";
    let call = json!({"name": "execute_code", "arguments": python(code), "_meta": {"progressToken": "p"}});
    let mcp = Mcp::begin(&client)?;
    let said = mcp.request("tools/call", &call)?;
    assert_eq!(said.last()?["result"]["structuredContent"]["value"], "42");
    let steps = said.told("notifications/progress");
    let messages: Vec<_> = steps.iter().filter_map(|step| step["params"]["message"].as_str()).collect();
    assert!(messages.contains(&"step 3") && messages.contains(&"running"), "{messages:?}");
    let progress: Vec<_> = steps.iter().filter_map(|step| step["params"]["progress"].as_f64()).collect();
    assert!(progress.windows(2).all(|pair| pair[0] < pair[1]), "{progress:?}");
    assert!(steps.iter().all(|step| step["params"]["progressToken"] == "p"));
    mcp.end()?;

    // In the newer revision each call says how much it wants to hear.
    let mcp = Mcp::without_session(&client);
    let mut call = json!({"name": "execute_code", "arguments": python(code)});
    call["_meta"]["io.modelcontextprotocol/logLevel"] = "info".into();
    let said = mcp.request("tools/call", &call)?;
    let heard: Vec<_> = said
        .told("notifications/message")
        .iter()
        .map(|log| {
            (log["params"]["level"].clone(), log["params"]["logger"].clone(), log["params"]["data"].clone())
        })
        .collect();
    assert!(heard.contains(&(json!("info"), json!("stdout"), json!("step 2\n"))), "{heard:?}");
    assert!(heard.contains(&(json!("warning"), json!("stderr"), json!("!\n"))), "{heard:?}");
    let session = id_of(&said.last()?["result"]["structuredContent"])?;
    client.close(&session)?;
    // Who asks for nothing hears nothing.
    let said =
        mcp.request("tools/call", &json!({"name": "execute_code", "arguments": python("print(1)")}))?;
    assert_eq!(said.messages.len(), 1);
    client.close(&id_of(&said.last()?["result"]["structuredContent"])?)?;
    Ok(())
}

fn every_call_is_in_the_audit_log(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default())?;
    let mcp = Mcp::begin(&server.client()?)?;
    let done = mcp.done("execute_code", &python("1"))?;
    mcp.refused("read_files", &json!({"paths": ["/etc/passwd"]}))?;
    let path = server.data_dir().join("audit/audit.jsonl");
    let mut lines: Vec<Value> = Vec::new();
    soon("both calls are noted", || {
        let text = std::fs::read_to_string(&path)?;
        lines = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(lines
            .iter()
            .filter(|line| line["action"].as_str().is_some_and(|a| a.starts_with("tool ")))
            .count()
            == 2)
    })?;
    let find = |action: &str| lines.iter().find(|line| line["action"] == action).context("no line");
    let ran = find("tool execute_code")?;
    assert_eq!((&ran["subject"], &ran["status"]), (&done["task_id"], &json!(200)));
    let door =
        |line: &Value| lines.iter().any(|l| l["action"] == "POST /mcp" && l["request"] == line["request"]);
    assert!(ran["tenant"].is_string() && ran["key"].is_string() && door(ran), "{ran}");
    let refused = find("tool read_files")?;
    assert_eq!((&refused["code"], &refused["status"]), (&json!("invalid_path"), &json!(400)));
    server.stop()?;
    Ok(())
}
