//! Native sessions, on a server that keeps cells for them.

use crate::{Sample, Wire, crowd, memory_of};
use anchorhold_tests::{Options, Server};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;

/// The row of a Node that nobody kept ready.
const OWN_NODE: &str = "node that is started for it";
const PANDAS: &str = "import pandas as pd\npd.DataFrame({'a': range(10)}).a.sum()";

/// From creation to the first result, with pauses in which the next cell is made; executions in one that lives; how many
/// whole lives there are in a second.
pub fn rows() -> Result<()> {
    println!();
    let server = Server::start(Options::default().with("pool", "native", "2").with("pool", "node", "1"))?;
    let mut wire = Wire::open(&server)?;
    let python = |code: &str| json!({"language": "python", "code": code});
    let node = json!({"language": "javascript", "code": "1+1"});
    let programs = [
        ("python", python("1+1"), "p50 ≤ 2"),
        ("python with pandas", python(PANDAS), "p50 ≤ 6"),
        // What it costs to start one anew, as it would be outside: the same file, the same walls.
        ("  pandas in a python3 of its own", json!({"command": ["python3", "-c", PANDAS]}), ""),
        ("node", node.clone(), ""),
        // One with an environment gets a Node of its own.
        (OWN_NODE, node.clone(), ""),
        ("bash", json!({"language": "bash", "code": "echo 2"}), ""),
        ("a command", json!({"command": ["echo", "2"]}), ""),
    ];
    for (name, program, goal) in &programs {
        let mut took = Vec::new();
        for n in 0..33 {
            let env = if *name == OWN_NODE { json!({"FOR": "it"}) } else { json!({}) };
            let (session, first) = begin(&mut wire, &env, program)?;
            wire.json("DELETE", &format!("/v1/sessions/{session}"), &Value::Null)?;
            // The first ones wait until what cells are forked from is loaded.
            if n >= 3 {
                took.push(first);
            }
            std::thread::sleep(Duration::from_millis(150));
        }
        Sample::of(took).show(&format!("native session and first execution, {name}"), goal);
    }
    for (name, program, _) in programs.iter().filter(|(name, ..)| ["python", "node", "bash"].contains(name)) {
        let (session, _) = begin(&mut wire, &json!({}), program)?;
        let path = format!("/v1/sessions/{session}/executions");
        let mut took = Vec::new();
        for _ in 0..300 {
            took.push(wire.json("POST", &path, program)?.1);
        }
        Sample::of(took).show(&format!("warm native execution, {name}"), "p50 ≤ 0.5");
        wire.json("DELETE", &format!("/v1/sessions/{session}"), &Value::Null)?;
    }
    let run = json!({"language": "python", "runtime": "native", "code": "1+1"});
    crowd(&server, "native python", &run, 4, "≥ 200")?;
    memory_of(&server, "native python", &json!({"runtime": "native"}), &python("1+1"), "≤ 8")?;
    memory_of(&server, "node", &json!({"runtime": "native"}), &node, "")?;
    server.stop()?;
    Ok(())
}

/// A native session with its first execution, and how long both took.
fn begin(wire: &mut Wire, env: &Value, program: &Value) -> Result<(String, Duration)> {
    let (answer, create) = wire.json("POST", "/v1/sessions", &json!({"runtime": "native", "env": env}))?;
    let session = answer["id"].as_str().context("id")?.to_owned();
    let (answer, first) = wire.json("POST", &format!("/v1/sessions/{session}/executions"), program)?;
    ensure!(answer["status"] == "succeeded", "{answer}");
    Ok((session, create + first))
}
