//! A Node that runs before there is a session, and the sessions that get it.

use super::{run, value, walls};
use crate::Shared;
use anchorhold_tests::{Client, Options, Server, host};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

tests!(
    who_begins_with_javascript_gets_a_node_that_runs,
    what_a_node_that_runs_could_not_know_is_not_asked_of_it,
    two_sessions_with_ready_nodes_share_nothing,
    a_hostile_program_of_a_ready_node_finds_no_way,
    a_node_that_does_not_start_is_in_nobodys_way,
    where_no_workspace_can_wait_no_node_does,
);

/// Whether this kernel mounts parts of what is attached nowhere, which a Node needs that waits: open_tree(2).
fn can_wait() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u32>().ok());
    let can = (numbers.next(), numbers.next()) >= (Some(6), Some(15));
    if !can {
        println!("Linux {release}: no Node waits");
    }
    can
}

fn server() -> Result<Server> {
    server_with("")
}

/// `fault`: a step that fails.
fn server_with(fault: &str) -> Result<Server> {
    Server::start(Options::default().with("pool", "native", "1").with("pool", "node", "1").fault(fault))
}

/// Waits until a Node waits, which has threads by then.
fn wait_for_node(server: &Server) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    let is_node = |pid: &u32| {
        let program = std::fs::read_link(format!("/proc/{pid}/exe"));
        program.is_ok_and(|program| program.ends_with("node"))
            && host::status(*pid, "Threads").as_deref() != Some("1")
    };
    while !host::waiting_cells(&server.cgroup()).iter().any(is_node) {
        ensure!(Instant::now() < end, "no Node waits:\n{}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    // It is there; now it gets ready.
    std::thread::sleep(Duration::from_millis(500));
    Ok(())
}

/// Milliseconds since 1970.
fn now_ms() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() * 1000.0)
}

/// Whether the session's Node ran before `begun`.
fn ran_before(client: &Client, session: &str, begun: f64) -> Result<bool> {
    let origin: f64 = value(&run(client, session, "javascript", "performance.timeOrigin")?).parse()?;
    Ok(origin < begun)
}

/// A session that has got the Node that waits.
fn with_ready_node(server: &Server, request: &Value) -> Result<String> {
    let client = server.client()?;
    wait_for_node(server)?;
    let begun = now_ms()?;
    let session = client.session(request)?;
    ensure!(ran_before(&client, &session, begun)?, "its Node was started for it");
    Ok(session)
}

fn walls_of(client: &Client, session: &str) -> Result<Value> {
    let walls = client.get(&format!("/v1/sessions/{session}"))?.expect(200)["isolation"].clone();
    ensure!(walls.as_object().is_some_and(|walls| !walls.is_empty()), "no walls");
    Ok(walls)
}

/// Also all that it could have of its session, and the walls that every other one has.
fn who_begins_with_javascript_gets_a_node_that_runs(_: &Shared) -> Result<()> {
    if !can_wait() {
        return Ok(());
    }
    let server = server()?;
    let client = server.client()?;
    let limits = json!({"disk_bytes": 16 << 20, "memory_bytes": 512 << 20});
    let session = with_ready_node(&server, &json!({"runtime": "native", "limits": limits}))?;
    let about = "JSON.stringify([process.cwd(), process.argv.length, process.getuid(), process.env.HOME, process.env.USER, \
        process.env.HTTP_PROXY, typeof process.env.ahead, Object.keys(globalThis).includes('rehearse')])";
    let expected = r#"'["/workspace",1,1000,"/home/user","user","http://127.0.0.1:3128","undefined",false]'"#;
    assert_eq!(value(&run(&client, &session, "javascript", about)?), expected);
    let status = "require('fs').readFileSync('/proc/self/status', 'utf8')";
    let status = run(&client, &session, "javascript", &format!("console.log({status})"))?;
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        ensure!(status["stdout"].as_str().is_some_and(|status| status.contains(line)), "{line}: {status:#}");
    }
    // The session's files are its files, and its other cells are of the same user.
    run(&client, &session, "javascript", "require('fs').writeFileSync('mine', 'by Node', { mode: 0o600 })")?;
    assert_eq!(
        run(&client, &session, "bash", "cat mine; rm mine; echo by bash > yours")?["stdout"],
        "by Node"
    );
    assert_eq!(client.get(&format!("/v1/sessions/{session}/files/yours"))?.text(), "by bash\n");
    let full = client.execute(&session, "bash", "head -c 20000000 /dev/zero > big; rm big")?;
    ensure!(full["stderr"].as_str().is_some_and(|text| text.contains("No space left")), "{full:#}");
    // An interrupt keeps its state.
    run(&client, &session, "javascript", "let kept = 7")?;
    let endless = json!({"language": "javascript", "code": "for (;;) {}", "timeout_seconds": 1});
    let answer = client.execute_with(&session, &endless)?;
    assert_eq!(
        (&answer["status"], &answer["state_lost"]),
        (&json!("timed_out"), &json!(false)),
        "{answer:#}"
    );
    assert_eq!(value(&run(&client, &session, "javascript", "kept")?), "7");
    let other = client.session(&json!({"runtime": "native"}))?;
    run(&client, &other, "python", "1")?;
    assert_eq!(walls_of(&client, &session)?, walls_of(&client, &other)?);
    // There is another one for who comes next.
    client.close(&session)?;
    with_ready_node(&server, &json!({"runtime": "native"}))?;
    server.stop()?;
    Ok(())
}

/// A session that has an environment or files gets a Node of its own, as does a second one.
fn what_a_node_that_runs_could_not_know_is_not_asked_of_it(_: &Shared) -> Result<()> {
    if !can_wait() {
        return Ok(());
    }
    let server = server()?;
    let client = server.client()?;
    wait_for_node(&server)?;
    let begun = now_ms()?;
    let with_env =
        client.session(&json!({"runtime": "native", "env": {"NODE_NO_WARNINGS": "1", "MINE": "set"}}))?;
    ensure!(!ran_before(&client, &with_env, begun)?, "its environment came too late");
    assert_eq!(value(&run(&client, &with_env, "javascript", "process.env.MINE")?), "'set'");
    let with_files = client.session(&json!({"runtime": "native"}))?;
    client.put(&format!("/v1/sessions/{with_files}/files/given"), "before")?.expect(201);
    ensure!(!ran_before(&client, &with_files, begun)?, "it has files of another session");
    let read = "require('fs').readFileSync('given', 'utf8')";
    assert_eq!(value(&run(&client, &with_files, "javascript", read)?), "'before'");
    let first = client.session(&json!({"runtime": "native"}))?;
    ensure!(ran_before(&client, &first, begun)?, "the ready one was used up");
    let second = json!({"language": "javascript", "context": "second", "code": "performance.timeOrigin"});
    let origin: f64 = value(&client.execute_with(&first, &second)?).parse()?;
    ensure!(origin > begun, "a context got the Node of nobody");
    server.stop()?;
    Ok(())
}

fn two_sessions_with_ready_nodes_share_nothing(_: &Shared) -> Result<()> {
    if !can_wait() {
        return Ok(());
    }
    let server = server()?;
    let client = server.client()?;
    let mut seen = Vec::new();
    for n in 0..2 {
        let session = with_ready_node(&server, &json!({"runtime": "native"}))?;
        let files = "const fs = require('fs'); ['/workspace', '/tmp', '/dev/shm'].map((place) => \
            fs.readdirSync(place).filter((name) => name.startsWith('of-'))).flat().join()";
        assert_eq!(value(&run(&client, &session, "javascript", files)?), "''");
        run(&client, &session, "javascript", &format!("fs.writeFileSync('/tmp/of-{n}', '')"))?;
        let random = run(&client, &session, "javascript", "[Math.random(), crypto.randomUUID()].join()")?;
        let cell = *host::cell_processes(session.trim_start_matches("ses_")).last().context("a cell")?;
        let user = host::status(cell, "Uid").context("a user")?;
        let network = host::namespace(cell, "net").context("a network")?;
        seen.push([value(&random).to_owned(), user, network]);
    }
    for (one, other) in seen[0].iter().zip(&seen[1]) {
        assert_ne!(one, other);
    }
    server.stop()?;
    Ok(())
}

fn a_hostile_program_of_a_ready_node_finds_no_way(_: &Shared) -> Result<()> {
    if !can_wait() {
        return Ok(());
    }
    let server = server()?;
    let session = with_ready_node(&server, &json!({"runtime": "native"}))?;
    walls::attack_from_node(&server.client()?, session)?;
    server.stop()?;
    Ok(())
}

/// What fails while it is made ready is told to the operator and to nobody else.
fn a_node_that_does_not_start_is_in_nobodys_way(_: &Shared) -> Result<()> {
    if !can_wait() {
        return Ok(());
    }
    let server = server_with("node_ahead")?;
    let client = server.client()?;
    let session = super::session(&client)?;
    assert_eq!(value(&run(&client, &session, "javascript", "6 * 7")?), "42");
    let fresh = client.session(&json!({"runtime": "native"}))?;
    assert_eq!(value(&run(&client, &fresh, "javascript", "6 * 7")?), "42");
    let told = server.log().matches("could not be prepared").count();
    assert_eq!(told, 1, "{}", server.log());
    server.stop()?;
    Ok(())
}

fn where_no_workspace_can_wait_no_node_does(_: &Shared) -> Result<()> {
    let server = server_with("workspace_detached")?;
    let client = server.client()?;
    client.close(&super::session(&client)?)?;
    // Long enough for one that would be made ready.
    std::thread::sleep(Duration::from_secs(1));
    let begun = now_ms()?;
    let session = client.session(&json!({"runtime": "native"}))?;
    ensure!(!ran_before(&client, &session, begun)?, "it ran before");
    client.close(&session)?;
    server.stop()?;
    Ok(())
}
