//! What is documented is what the server does: the document, and the page with its examples.

use crate::Shared;
use anchorhold_tests::{Client, Options, Server};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

tests!(
    the_document_is_the_golden_one,
    every_command_of_the_page_does_what_it_shows,
    every_documented_field_is_taken,
    the_page_needs_nothing_from_elsewhere,
    what_a_client_has_is_not_sent_again,
);

/// What runs in the sessions that commands act on.
const LOOPS: &str = "import time\nwhile True:\n    time.sleep(0.01)";
const READS: &str = "print('hello', input())";
const SAYS: &str = "print('hello')\n6 * 7";

fn updating() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn document(client: &Client) -> Result<Value> {
    Ok(client.with_key(None).get("/openapi.json")?.expect(200))
}

/// The contract: `UPDATE_GOLDEN=1` writes it, the diff is the review.
fn the_document_is_the_golden_one(shared: &Shared) -> Result<()> {
    let shown = serde_json::to_string_pretty(&document(&shared.client()?)?)? + "\n";
    let path = in_repository("golden/openapi.json");
    if updating() {
        std::fs::write(&path, &shown)?;
    }
    let golden = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    for (at, (shown, golden)) in shown.lines().zip(golden.lines()).enumerate() {
        assert_eq!(shown, golden, "line {}; UPDATE_GOLDEN=1 writes the file", at + 1);
    }
    assert_eq!(shown.len(), golden.len(), "UPDATE_GOLDEN=1 writes the file");
    Ok(())
}

/// An operation of the document.
struct Operation<'d> {
    method: &'d str,
    path: &'d str,
    body: &'d Value,
}

impl Operation<'_> {
    fn id(&self) -> &str {
        self.body["operationId"].as_str().unwrap_or_default()
    }
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let paths = document["paths"].as_object().into_iter().flatten();
    let all = paths.flat_map(|(path, item)| {
        let methods = item.as_object().into_iter().flatten();
        methods.map(move |(method, body)| Operation { method, path, body })
    });
    all.collect()
}

/// A command as the page shows it.
struct Shown {
    operation: String,
    /// Empty when nothing was recorded.
    example: String,
    text: String,
}

fn commands(page: &str) -> Result<Vec<Shown>> {
    let pieces = page.split("<pre class=\"command\" data-operation=\"").skip(1);
    let all = pieces.map(|piece| {
        let (operation, rest) = piece.split_once("\" data-example=\"").context("an example")?;
        let (example, rest) = rest.split_once('"').context("a name")?;
        let (_, rest) = rest.split_once("<code>").context("a command")?;
        let (html, _) = rest.split_once("</code>").context("an end")?;
        let text =
            html.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
        Ok(Shown { operation: operation.to_owned(), example: example.to_owned(), text })
    });
    all.collect()
}

/// What a command got.
struct Got {
    status: String,
    kind: String,
    bytes: Vec<u8>,
}

/// Runs a command as it is printed; only curl also says what it got.
fn run(shown: &Shown, folder: &Path, variables: &[(&str, String)]) -> Result<Got> {
    let says = "curl() { command curl -m 60 -o got -w '%{http_code} %{content_type}' \"$@\"; }\n";
    let mut command = Command::new("bash");
    command.current_dir(folder).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let output = command.args(["-euc", &format!("{says}{}", shown.text)]).output()?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}\n{told}{}", shown.text, String::from_utf8_lossy(&output.stderr));
    let (status, kind) = told.split_once(' ').context("a status")?;
    let kind = kind.split(';').next().unwrap_or_default().to_owned();
    // A HEAD prints headers where others print a body.
    let bytes = if shown.text.contains("curl -sI") { Vec::new() } else { std::fs::read(folder.join("got"))? };
    Ok(Got { status: status.to_owned(), kind, bytes })
}

/// Makes what a command acts on, and says where it is.
fn scene(client: &Client, base: &str, key: &str, shown: &Shown) -> Result<Vec<(&'static str, String)>> {
    let mut variables = vec![("ANCHORHOLD", base.to_owned()), ("KEY", key.to_owned())];
    if shown.text.contains("$SESSION") {
        let opens = ["show_browser", "look_at_browser"].contains(&&*shown.operation);
        let browses = opens || shown.operation == "run_actions";
        let session = client.session(&if browses { json!({"browser": {}}) } else { json!({}) })?;
        let path = format!("/v1/sessions/{session}");
        client.put(&format!("{path}/files/notes.txt"), "Ada\nGrace\n")?.expect(201);
        client.put(&format!("{path}/files/data/numbers.csv"), "1,2\n")?.expect(201);
        let execution = match shown.operation.as_str() {
            "cancel_execution" | "signal_execution" => running(client, &path, LOOPS)?,
            "send_input" => running(client, &path, READS)?,
            _ if opens => text(&browsing(client, &path)?["id"]),
            "list_ports" | "close_port" => {
                client.post(&format!("{path}/ports"), &json!({ "port": 3000 }))?.expect(201);
                String::new()
            }
            // The first that such a session sees is the one that is shown.
            "create_execution" | "run_actions" => String::new(),
            _ => text(&client.execute(&session, "python", SAYS)?["id"]),
        };
        let contexts = client.get(&format!("{path}/contexts"))?.expect(200);
        variables.push(("CONTEXT", text(&contexts["items"][0]["id"])));
        variables.extend([("SESSION", session), ("EXECUTION", execution)]);
    }
    if shown.text.contains("$TENANT") {
        let named = json!({ "name": shown.operation });
        let tenant = text(&client.post("/v1/tenants", &named)?.expect(201)["id"]);
        let key = client.post(&format!("/v1/tenants/{tenant}/keys"), &json!({ "name": "old" }))?.expect(201);
        variables.extend([("TENANT", tenant), ("KEY_ID", text(&key["id"]))]);
    }
    Ok(variables)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A browser that shows something.
fn browsing(client: &Client, path: &str) -> Result<Value> {
    let actions = json!([{"type": "navigate", "url": "data:text/html,<title>Hello</title>"}]);
    Ok(client.post(&format!("{path}/browser/actions"), &json!({ "actions": actions }))?.expect(200))
}

/// An execution that runs for sure.
fn running(client: &Client, path: &str, code: &str) -> Result<String> {
    let request = json!({ "language": "python", "code": code, "background": true, "stdin": null });
    let id = text(&client.post(&format!("{path}/executions"), &request)?.expect(202)["id"]);
    let end = Instant::now() + Duration::from_secs(20);
    while client.get(&format!("{path}/contexts"))?.expect(200)["items"][0]["status"] != "running" {
        ensure!(Instant::now() < end, "{id} does not run");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(id)
}

/// Every command of the page is run as it is printed. What it gets is documented, has the documented shape, and is what
/// the page shows below it, but for what differs each time.
fn every_command_of_the_page_does_what_it_shows(_: &Shared) -> Result<()> {
    // Of its own, so that lists hold what is expected.
    let server = Server::start(Options::default().with("preview", "listen", "127.0.0.1:0"))?;
    let (client, base) = (server.client()?, server.base().to_owned());
    let key = std::fs::read_to_string(server.data_dir().join("admin.key"))?.trim().to_owned();
    let document = document(&client)?;
    let operations = operations(&document);
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("notes.txt"), "Ada\nGrace\n")?;
    let packed =
        Command::new("tar").args(["czf", "files.tar.gz", "notes.txt"]).current_dir(&folder).status()?;
    ensure!(packed.success(), "tar: {packed}");
    let (mut seen, mut recorded) = (BTreeSet::new(), Vec::new());
    let commands = commands(&client.with_key(None).get("/docs")?.text())?;
    for shown in &commands {
        let operation = operations.iter().find(|operation| operation.id() == shown.operation);
        let operation = operation.with_context(|| format!("{} is not documented", shown.operation))?;
        let scene = scene(&client, &base, &key, shown)?;
        let got = run(shown, folder.path(), &scene)?;
        let about = format!("{}\n{} {}", shown.text, got.status, String::from_utf8_lossy(&got.bytes));
        check(&document, operation, &got).context(about.clone())?;
        seen.insert(shown.operation.clone());
        if got.kind.ends_with("json") && shown.operation != "document" {
            let answer: Value = serde_json::from_slice(&got.bytes)?;
            let example = &content(operation, &got)?["examples"][&shown.example]["value"];
            if updating() {
                recorded.push((shown, got.status.clone(), answer));
            } else {
                assert_eq!(masked("", &answer), masked("", example), "{about}");
            }
        }
        if let Some((_, session)) = scene.iter().find(|(name, _)| *name == "SESSION") {
            client.close(session)?;
        }
    }
    let all: BTreeSet<String> = operations.iter().map(|operation| operation.id().to_owned()).collect();
    assert_eq!(seen, all, "operations with a command on the page");
    if updating() {
        record(&recorded)?;
    }
    server.stop()?;
    Ok(())
}

/// What the document says of this answer's body.
fn content<'d>(operation: &Operation<'d>, got: &Got) -> Result<&'d Value> {
    let answer = &operation.body["responses"][&got.status];
    ensure!(answer.is_object(), "{} {}: {} is not documented", operation.method, operation.path, got.status);
    Ok(&answer["content"][&got.kind])
}

/// The answer is documented, and its body has the documented shape and no field besides.
fn check(document: &Value, operation: &Operation<'_>, got: &Got) -> Result<()> {
    let content = content(operation, got)?;
    if got.bytes.is_empty() {
        return Ok(());
    }
    ensure!(content.is_object(), "the type {} is not documented", got.kind);
    if !got.kind.ends_with("json") {
        return Ok(());
    }
    let mut schema = content["schema"].clone();
    schema["components"] = document["components"].clone();
    close(&mut schema);
    let validator = jsonschema::options().should_validate_formats(true).build(&schema)?;
    let value: Value = serde_json::from_slice(&got.bytes)?;
    let errors: Vec<String> =
        validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    ensure!(errors.is_empty(), "not as documented: {errors:?}");
    Ok(())
}

/// Lets no object have fields that are not documented.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("properties").is_some_and(Value::is_object)
                && fields.get("type") == Some(&json!("object"))
            {
                fields.entry("additionalProperties").or_insert(json!(false));
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// The value without what differs each time: ids, times, what was measured, and the walls of this host.
fn masked(name: &str, value: &Value) -> Value {
    const MEASURED: [&str; 11] = [
        "wall_us",
        "cpu_us",
        "queued_us",
        "memory_peak_bytes",
        "memory_mib_ms",
        "browser_active_us",
        "browser_standby_us",
        // Of cells that ended meanwhile.
        "records",
        "cost_picos",
        "spent_picos",
        "key",
    ];
    let time = name.ends_with("_at") || ["from", "to"].contains(&name);
    match value {
        Value::Object(_) if name == "isolation" => json!("…"),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), masked(name, value)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(|item| masked(name, item)).collect(),
        Value::String(text) if text.contains("?token=") || text.contains("_preview=") => json!("…"),
        Value::String(text) if is_id(text) => json!(format!("{}…", &text[..4])),
        Value::Number(_) | Value::String(_) if time || MEASURED.contains(&name) => json!("…"),
        other => other.clone(),
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 30
        && text.as_bytes()[3] == b'_'
        && text[4..].bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Writes what was answered into the file that the document takes its examples from.
fn record(recorded: &[(&Shown, String, Value)]) -> Result<()> {
    let path = in_repository("../api/src/http/openapi/examples.json");
    let mut examples: Vec<Value> = serde_json::from_slice(&std::fs::read(&path)?)?;
    for (shown, status, answer) in recorded {
        let example = examples.iter_mut().find(|example| {
            let named = shown.example.is_empty() || example["name"] == shown.example.as_str();
            example["operation"] == shown.operation.as_str() && named
        });
        let Some(example) = example else { bail!("{} has no example {}", shown.operation, shown.example) };
        let mut answer = answer.clone();
        if let Some((url, secret)) = answer["url"].as_str().and_then(|url| url.split_once('=')) {
            // Nor a link.
            answer["url"] = json!(format!("{url}={}_{}", &secret[..3], "0".repeat(52)));
        }
        if answer.get("key").is_some() {
            // No key stands in a repository.
            answer["key"] = json!(format!("ah_{}", "0".repeat(52)));
        }
        example["status"] = status.parse::<u16>()?.into();
        example["answer"] = answer;
    }
    Ok(std::fs::write(path, serde_json::to_string_pretty(&examples)? + "\n")?)
}

/// Each field of each documented body, with a value that it cannot have: the server names it, and knows it.
fn every_documented_field_is_taken(shared: &Shared) -> Result<()> {
    let client = shared.client()?;
    let document = document(&client)?;
    let mut count = 0;
    for operation in operations(&document) {
        let schema = &operation.body["requestBody"]["content"]["application/json"]["schema"];
        let path =
            ["ses", "exe", "ctx", "ten", "key"].iter().fold(operation.path.to_owned(), |path, kind| {
                let id = format!("{kind}_{}", "0".repeat(26));
                let name = if *kind == "ses" || *kind == "ten" { "{id}" } else { &format!("{{{kind}}}") };
                let here = *kind != "ten" || operation.path.contains("tenants");
                let here = here && (*kind != "ses" || operation.path.contains("sessions"));
                if here { path.replace(name, &id) } else { path }
            });
        for (field, body) in wrong_fields(&document, schema) {
            let kind = [("content-type", "application/json")];
            let method = operation.method.to_uppercase();
            let answer = client.raw(&method, &path, &kind, body.to_string().into())?;
            assert_eq!(
                answer.problem(422),
                "invalid_request",
                "{} {body}: {}",
                operation.id(),
                answer.text()
            );
            let errors = answer.json()["errors"].clone();
            let named =
                errors.as_array().into_iter().flatten().find(|error| error["field"] == field.as_str());
            let named = named.with_context(|| format!("{} {body}: {errors}", operation.id()))?;
            assert_ne!(named["detail"], "unknown field", "{} {field}", operation.id());
            count += 1;
        }
    }
    assert!(count > 50, "{count} fields");
    Ok(())
}

/// Every field of a schema, also within fields, in a body where only it is wrong.
fn wrong_fields(document: &Value, schema: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (name, field) in resolved(document, schema)["properties"].as_object().into_iter().flatten() {
        let wrong = if resolved(document, field)["items"].is_object() { json!({}) } else { json!([]) };
        found.push((name.clone(), json!({ name: wrong })));
        for (inner, body) in wrong_fields(document, field) {
            found.push((format!("{name}.{inner}"), json!({ name: body })));
        }
        for (inner, body) in wrong_fields(document, &resolved(document, field)["items"]) {
            found.push((format!("{name}.0.{inner}"), json!({ name: [body] })));
        }
    }
    found
}

fn resolved<'d>(document: &'d Value, schema: &'d Value) -> &'d Value {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        return &document["components"]["schemas"][name];
    }
    let one = schema["oneOf"].as_array().and_then(|items| items.iter().find(|item| item["$ref"].is_string()));
    one.map_or(schema, |one| resolved(document, one))
}

fn the_page_needs_nothing_from_elsewhere(shared: &Shared) -> Result<()> {
    let answer = shared.client()?.with_key(None).get("/docs")?;
    let page = answer.text();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(
        answer
            .header("content-security-policy")
            .is_some_and(|policy| policy.starts_with("default-src 'none';"))
    );
    for element in
        ["<script", "<link", "<img", "<iframe", "@import", "@font-face", "url(", " src=", " style="]
    {
        assert!(!page.contains(element), "{element}");
    }
    let ids: BTreeSet<&str> =
        page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    for link in page.split(" href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        let here = link.strip_prefix('#').is_some_and(|id| ids.contains(id));
        assert!(here || link == "/openapi.json", "{link} leads nowhere");
    }
    Ok(())
}

fn what_a_client_has_is_not_sent_again(shared: &Shared) -> Result<()> {
    let client = shared.client()?.with_key(None);
    for path in ["/openapi.json", "/docs"] {
        let first = client.get(path)?;
        assert_eq!((first.status, first.header("cache-control")), (200, Some("no-cache")), "{path}");
        let etag = first.header("etag").context("an ETag")?;
        for (tags, status) in [(etag, 304), (&format!("\"x\", W/{etag}"), 304), ("\"x\"", 200)] {
            let again = client.raw("GET", path, &[("if-none-match", tags)], vec![])?;
            assert_eq!((again.status, again.bytes.is_empty()), (status, status == 304), "{path} {tags}");
            assert_eq!(again.header("etag"), Some(etag));
        }
    }
    Ok(())
}
