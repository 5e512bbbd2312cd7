//! `make demo`: the real job, told as it happens.

use anchorhold_tests::{Client, Options, Server};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const SALES: &str =
    "region,month,amount\nnorth,1,120\nnorth,2,150\nsouth,1,80\nsouth,2,95\nwest,1,200\nwest,2,170\n";

const ANALYSIS: &str = "import csv, statistics, collections
rows = list(csv.DictReader(open('sales.csv')))
totals = collections.defaultdict(int)
for row in rows:
    totals[row['region']] += int(row['amount'])
best = max(totals, key=totals.get)
print(f'{len(rows)} rows, mean {statistics.mean(int(r[\"amount\"]) for r in rows):.1f}')
dict(totals)";

const REPORT: &str = "const fs = require('fs');
const rows = fs.readFileSync('sales.csv', 'utf8').trim().split('\\n').slice(1).map(r => r.split(','));
const table = Object.groupBy(rows, ([region]) => region);
const lines = Object.entries(table).map(([r, rows]) => `| ${r} | ${rows.map(x => x[2]).join(' | ')} |`);
fs.writeFileSync('report.md', '| region | month 1 | month 2 |\\n|---|---|---|\\n' + lines.join('\\n') + '\\n');
lines.length";

/// What an analyst's agent writes: two files in, a join, a fit, three pictures and a PDF out.
const NATIVE_ANALYSIS: &str = include_str!("analysis.py");
const NATIVE_PAGE: &str = include_str!("page.js");
const GOALS: &[u8] = include_bytes!("goals.xlsx");

const FORM: &str = "<!doctype html><title>Sales</title><style>body{font:16px sans-serif;margin:2em}</style>
<h1>Sales 2026 · 売上 · 销售额 📈</h1><pre>{report}</pre>
<form onsubmit='event.preventDefault();out.textContent=`Approved by ${who.value}`'>
<label>Approved by <input id=who></label> <label><input type=checkbox required> I have read it</label>
<button>Approve</button></form><p><output id=out></output></p>";

fn main() -> Result<()> {
    let start = Instant::now();
    step("starting a server of its own (service, warden, warm interpreters)");
    let server = Server::start(Options::default().with("pool", "native", "1"))?;
    let client = server.client()?;
    println!("   it serves on {} after {:.1} s", server.base(), start.elapsed().as_secs_f64());
    let session =
        client.session(&json!({"name": "demo", "browser": {}, "limits": {"memory_bytes": 512 << 20}}))?;
    agent_job(&client, &session)?;
    native_job(&client, &session)?;
    browser_job(&client, &session)?;
    hostile_job(&client, &session)?;
    walls(&client, &session)?;
    bill(&client, &session)?;
    step("stopping");
    server.stop()?;
    println!(
        "   nothing is left: no process, no control group, no file\n\nThe whole demo took {:.1} s.",
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn step(text: &str) {
    println!("\n\x1b[1m── {text}\x1b[0m");
}

fn show(label: &str, text: &str) {
    for line in text.trim_end().lines() {
        println!("   {label:<7}│ {line}");
    }
}

/// Runs code and shows what went in and what came out.
fn execute(client: &Client, session: &str, language: &str, code: &str, timeout: f64) -> Result<Value> {
    show(if language == "javascript" { "js" } else { language }, code);
    let start = Instant::now();
    let request = json!({"language": language, "code": code, "timeout_seconds": timeout});
    let answer = client.execute_with(session, &request)?;
    outcome(&answer, start.elapsed());
    Ok(answer)
}

/// What came out of it.
fn outcome(answer: &Value, seen: Duration) {
    show("printed", answer["stdout"].as_str().unwrap_or_default());
    for result in answer["results"].as_array().into_iter().flatten() {
        let picture = result["mime"]["image/png"].as_str();
        let picture = picture.map(|data| format!("a picture of {} bytes", data.len() / 4 * 3));
        let text = result["mime"]["text/plain"].as_str();
        show("value", picture.as_deref().or(text).unwrap_or_default());
    }
    if let Some(error) = answer["error"]["name"].as_str() {
        show("error", &format!("{error}: {}", answer["error"]["message"].as_str().unwrap_or_default()));
    }
    println!("   ⇒ {}{} in {}", answer["status"].as_str().unwrap_or_default(), limit(answer), millis(seen));
}

fn limit(answer: &Value) -> String {
    answer["limit"].as_str().map(|limit| format!(" ({limit})")).unwrap_or_default()
}

fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

fn agent_job(client: &Client, session: &str) -> Result<()> {
    step("an agent's job: a CSV goes in, Python analyses it, JavaScript writes a report");
    client.put(&format!("/v1/sessions/{session}/files/sales.csv"), SALES)?.expect(201);
    println!("   uploaded sales.csv ({} bytes) into the session's workspace", SALES.len());
    execute(client, session, "python", ANALYSIS, 10.0)?;
    println!();
    execute(
        client,
        session,
        "python",
        "f'{best} is best with {totals[best]}'   # the variables are still there",
        10.0,
    )?;
    println!();
    execute(client, session, "javascript", REPORT, 10.0)?;
    let report = client.get(&format!("/v1/sessions/{session}/files/report.md"))?;
    println!("   downloaded report.md:");
    show("", &report.text());
    Ok(())
}

/// The same files, by the interpreters and packages that people work with.
fn native_job(client: &Client, session: &str) -> Result<()> {
    step("a heavier one in the same session: CPython with pandas and matplotlib, Node, a shell");
    client.put(&format!("/v1/sessions/{session}/files/goals.xlsx"), GOALS)?.expect(201);
    for (language, code) in [("python", NATIVE_ANALYSIS), ("javascript", NATIVE_PAGE)] {
        let start = Instant::now();
        let request = json!({"language": language, "runtime": "native", "code": code, "timeout_seconds": 60});
        let answer = client.execute_with(session, &request)?;
        show(if language == "javascript" { "node" } else { language }, code);
        outcome(&answer, start.elapsed());
        println!();
    }
    let start = Instant::now();
    let line = "pdftotext -layout report.pdf - | head -12; ls -sh *.png report.pdf";
    show("command", line);
    let answer = client.execute_with(session, &json!({"command": ["sh", "-c", line]}))?;
    outcome(&answer, start.elapsed());
    std::fs::create_dir_all("demo-out")?;
    for name in ["report.pdf", "regions.png", "trend.png", "stack.png", "summary.html"] {
        let file = client.get(&format!("/v1/sessions/{session}/files/{name}"))?;
        file.expect(200);
        std::fs::write(format!("demo-out/{name}"), &file.bytes)?;
    }
    println!("   downloaded report.pdf, its pictures and summary.html to demo-out/");
    Ok(())
}

/// The session's browser sees a page that needs no network: it is in its own URL.
fn browser_job(client: &Client, session: &str) -> Result<()> {
    step("the same session drives a browser: a page opens, a form is filled, a picture is taken");
    let report = client.get(&format!("/v1/sessions/{session}/files/report.md"))?.text();
    let page: String = FORM.replace("{report}", &report).bytes().map(|byte| format!("%{byte:02X}")).collect();
    let actions = json!([
        {"type": "navigate", "url": format!("data:text/html;charset=utf-8,{page}")},
        {"type": "fill", "target": {"label": "Approved by"}, "value": "the agent"},
        {"type": "check", "target": {"label": "I have read it"}},
        {"type": "click", "target": {"role": "button", "name": "Approve"}},
        {"type": "wait_for", "text": "Approved by the agent"},
        {"type": "snapshot"},
        {"type": "screenshot", "path": "approval.png"},
    ]);
    let start = Instant::now();
    let body = json!({"actions": actions, "timeout_seconds": 30});
    let answer = client.post(&format!("/v1/sessions/{session}/browser/actions"), &body)?.expect(200);
    for (action, result) in
        actions.as_array().into_iter().flatten().zip(answer["results"].as_array().context("results")?)
    {
        let what = ["target", "text", "path"].iter().find_map(|key| action.get(key)).map(Value::to_string);
        let kind = action["type"].as_str().unwrap_or_default();
        println!(
            "   {:<11} {:<42} {}",
            kind,
            what.unwrap_or_default(),
            result["outcome"].as_str().unwrap_or_default()
        );
    }
    println!(
        "   ⇒ {} in {}; what the page says to an agent:",
        answer["status"].as_str().unwrap_or_default(),
        millis(start.elapsed())
    );
    show("", answer["results"][5]["text"].as_str().unwrap_or_default());
    let picture = client.get(&format!("/v1/sessions/{session}/files/approval.png"))?.bytes;
    std::fs::create_dir_all("demo-out")?;
    std::fs::write("demo-out/approval.png", &picture)?;
    println!("   downloaded approval.png ({} bytes) to demo-out/approval.png: have a look", picture.len());
    Ok(())
}

fn hostile_job(client: &Client, session: &str) -> Result<()> {
    step("code that nobody trusts: a runaway loop, a memory bomb, a look around");
    execute(client, session, "python", "while True: pass", 1.0)?;
    println!();
    execute(client, session, "python", "hoard = []\nwhile True: hoard.append(bytearray(10_000_000))", 10.0)?;
    println!();
    execute(client, session, "python", "open('/etc/shadow').read()", 10.0)?;
    println!();
    execute(client, session, "javascript", "await fetch('http://169.254.169.254/latest/meta-data/')", 10.0)?;
    println!("\n   the session lives on:");
    execute(client, session, "python", "1 + 1", 10.0)?;
    Ok(())
}

fn walls(client: &Client, session: &str) -> Result<()> {
    step("what stood between that code and this machine");
    let got = client.get(&format!("/v1/sessions/{session}"))?.expect(200);
    for (name, state) in got["isolation"].as_object().context("isolation")? {
        println!("   {name:<20} {}", state.as_str().unwrap_or_default());
    }
    Ok(())
}

fn bill(client: &Client, session: &str) -> Result<()> {
    step("the bill");
    client.close(session)?;
    let usage = client.get(&format!("/v1/sessions/{session}/usage"))?.expect(200);
    let records = usage["items"].as_array().context("records")?;
    println!("   {:<10} {:>12} {:>12} {:>14} {:>16}", "kind", "wall ms", "cpu ms", "memory MiB·ms", "cost $");
    let mut total = 0u128;
    for record in records {
        let number = |field: &str| record[field].as_u64().unwrap_or(0);
        let cost: u128 = record["cost_picos"].as_str().and_then(|c| c.parse().ok()).unwrap_or(0);
        total += cost;
        let ms = |us: u64| format!("{}.{:03}", us / 1000, us % 1000);
        println!(
            "   {:<10} {:>12} {:>12} {:>14} {:>16}",
            record["kind"].as_str().unwrap_or_default(),
            ms(number("wall_us")),
            ms(number("cpu_us")),
            number("memory_mib_ms"),
            dollars(cost)
        );
    }
    println!("   {:<10} {:>58}", "total", dollars(total));
    Ok(())
}

/// Pico-dollars as dollars with twelve decimals.
fn dollars(picos: u128) -> String {
    format!("{}.{:012}", picos / 1_000_000_000_000, picos % 1_000_000_000_000)
}
