//! A shell at a terminal, by WebSocket.

use crate::Shared;
use crate::cdp::open;
use anchorhold_tests::{Client, Options, Server, host};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tungstenite::{Message, WebSocket};

tests!(
    a_terminal_is_a_shells,
    keys_interrupt_and_jobs_are_controlled,
    hanging_up_ends_everything,
    no_tricks_are_played_with_a_terminal,
    output_without_end_waits_for_its_reader,
    who_may_not_sit_down_does_not,
);

/// Somebody at a terminal.
struct Person {
    socket: WebSocket<TcpStream>,
    /// What was shown and not looked at.
    shown: String,
}

impl Person {
    fn sit_down(client: &Client, session: &str, query: &str) -> Result<Self> {
        let url =
            format!("{}/v1/sessions/{session}/terminal{query}", client.base().replacen("http", "ws", 1));
        let key = format!("Bearer {}", client.key().context("a key")?);
        let socket = open(&url, &[("authorization", &key)])?.map_err(|s| anyhow::anyhow!("refused: {s}"))?;
        socket.get_ref().set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Self { socket, shown: String::new() })
    }

    fn types(&mut self, keys: &str) -> Result<()> {
        Ok(self.socket.send(Message::binary(keys.as_bytes().to_vec()))?)
    }

    /// Waits until this is shown, and forgets it with all before.
    fn sees(&mut self, what: &str) -> Result<String> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(at) = self.shown.find(what) {
                let rest = self.shown.split_off(at + what.len());
                return Ok(std::mem::replace(&mut self.shown, rest));
            }
            ensure!(Instant::now() < end, "{what:?} is not shown: {:?}", self.shown);
            match self.socket.read().with_context(|| format!("{what:?}: {:?}", self.shown))? {
                Message::Binary(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Message::Close(frame) => bail!("{what:?}: closed {frame:?} after {:?}", self.shown),
                _ => {}
            }
        }
    }

    /// What a command prints, told apart from its echo.
    fn runs(&mut self, command: &str) -> Result<String> {
        self.types(&format!("printf '<%s' '<'; {command}; printf '%s>' '>'\n"))?;
        self.sees("<<")?;
        let shown = self.sees(">>")?;
        Ok(shown.trim_end_matches(">>").replace("\r\n", "\n").trim().to_owned())
    }

    /// The code that it is closed with.
    fn closed(&mut self) -> Result<u16> {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if let Message::Close(frame) = self.socket.read()? {
                return Ok(frame.context("no code")?.code.into());
            }
        }
        bail!("it is not closed")
    }
}

fn seated(shared: &Shared) -> Result<(Client, String, Person)> {
    let client = shared.client()?;
    let session = client.session(&json!({}))?;
    // The first native cell of a server waits for what it is forked from.
    client.execute_with(&session, &json!({"command": ["true"]}))?;
    let person = Person::sit_down(&client, &session, "?rows=30&cols=100")?;
    Ok((client, session, person))
}

/// The session's execution at its terminal.
fn execution(client: &Client, session: &str) -> Result<Value> {
    let all = client.get(&format!("/v1/sessions/{session}/executions"))?.expect(200);
    let mut all = all["items"].as_array().context("items")?.iter();
    all.find(|one| one["language"] == "terminal").cloned().context("no execution of a terminal")
}

fn ended(client: &Client, session: &str) -> Result<Value> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let execution = execution(client, session)?;
        if execution["status"] != "running" {
            return Ok(execution);
        }
        ensure!(Instant::now() < end, "it goes on: {execution:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn a_terminal_is_a_shells(shared: &Shared) -> Result<()> {
    let (client, session, mut person) = seated(shared)?;
    assert_eq!(person.runs("stty size")?, "30 100");
    assert_eq!(person.runs("tty; echo $TERM; pwd; id -u")?, "/dev/pts/0\nxterm-256color\n/workspace\n1000");
    person.socket.send(Message::text(r#"{"resize":[40,120]}"#))?;
    assert_eq!(person.runs("stty size")?, "40 120");
    assert_eq!(person.runs("echo from the terminal > note; echo $? > /dev/tty")?, "0");
    assert_eq!(client.get(&format!("/v1/sessions/{session}/files/note"))?.text(), "from the terminal\n");
    // A program that asks is answered by keys.
    person.types("python3 -c \"print(int(input('number? ')) * 7)\"\n")?;
    person.sees("number? ")?;
    person.types("6\n")?;
    person.sees("42")?;
    assert_eq!(execution(&client, &session)?["status"], "running");
    person.types("exit 3\n")?;
    assert_eq!(person.closed()?, 1000);
    let execution = ended(&client, &session)?;
    assert_eq!(
        (&execution["status"], &execution["exit_code"]),
        (&json!("failed"), &json!(3)),
        "{execution:#}"
    );
    ensure!(execution["usage"]["cpu_us"].as_u64() > Some(0), "{execution:#}");
    let contexts = client.get(&format!("/v1/sessions/{session}/contexts"))?.expect(200);
    ensure!(!contexts.to_string().contains("terminal"), "{contexts:#}");
    client.close(&session)?;
    Ok(())
}

/// Waits until a program of the session sleeps: a key that comes before is the shell's.
fn sleeps(session: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    let name = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    while !host::cell_processes(session.trim_start_matches("ses_")).iter().any(|pid| name(pid) == "sleep\n") {
        ensure!(Instant::now() < end, "nothing sleeps");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn keys_interrupt_and_jobs_are_controlled(shared: &Shared) -> Result<()> {
    let (client, session, mut person) = seated(shared)?;
    person.types("sleep 1000\n")?;
    person.sees("sleep 1000\r\n")?;
    sleeps(&session)?;
    person.types("\u{3}echo code $?\n")?;
    person.sees("code 130")?;
    person.types("sleep 1000\n")?;
    person.sees("sleep 1000\r\n")?;
    sleeps(&session)?;
    person.types("\u{1a}")?;
    person.sees("Stopped")?;
    ensure!(person.runs("jobs")?.contains("Stopped"), "no job");
    assert_eq!(person.runs("kill %1; wait %1 2> /dev/null; echo over")?.lines().last(), Some("over"));
    // Not by Ctrl-D, which is lost when it comes before the prompt does.
    person.types("exit\n")?;
    assert_eq!(person.closed()?, 1000);
    client.close(&session)?;
    Ok(())
}

fn hanging_up_ends_everything(shared: &Shared) -> Result<()> {
    let (client, session, mut person) = seated(shared)?;
    // Neither a signal nor a session of its own saves what was started.
    person.runs(
        "trap '' HUP TERM; (setsid sleep 1000 &) ; (while :; do date +%s%N > beat; sleep 0.05; done) & echo",
    )?;
    let beat = || client.get(&format!("/v1/sessions/{session}/files/beat"));
    let end = Instant::now() + Duration::from_secs(20);
    while beat()?.status != 200 {
        ensure!(Instant::now() < end, "it does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(person);
    let execution = ended(&client, &session)?;
    assert_eq!(execution["status"], "succeeded", "{execution:#}");
    let last = beat()?.text();
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(beat()?.text(), last, "something goes on");
    // A closed session ends it, too.
    let mut person = Person::sit_down(&client, &session, "")?;
    assert_eq!(person.runs("stty size")?, "24 80");
    client.close(&session)?;
    assert_eq!(person.closed()?, 1000);
    Ok(())
}

fn no_tricks_are_played_with_a_terminal(shared: &Shared) -> Result<()> {
    let (client, session, mut person) = seated(shared)?;
    let tricks = "import fcntl, os, struct, errno\n\
        def said(act):\n    try:\n        act(); return 'done'\n    except OSError as e:\n        return errno.errorcode[e.errno]\n\
        print(said(lambda: fcntl.ioctl(0, 0x5412, b'x')), said(lambda: fcntl.ioctl(0, 0x5423, struct.pack('i', 21))), \
        said(lambda: fcntl.ioctl(0, 0x541D)), said(lambda: fcntl.ioctl(0, 0x541C, b'\\x02')))\n";
    client.put(&format!("/v1/sessions/{session}/files/tricks.py"), tricks)?.expect(201);
    assert_eq!(person.runs("python3 tricks.py")?, "EPERM EPERM EPERM EPERM");
    // No other cell of the session sees it.
    let code = "import os\nsorted(set(os.listdir('/dev')) - {'pts'}), os.listdir('/dev/pts')";
    let seen =
        client.execute_with(&session, &json!({"language": "python", "runtime": "native", "code": code}))?;
    let seen = seen["results"][0]["mime"]["text/plain"].as_str().unwrap_or_default();
    ensure!(seen.ends_with("['ptmx'])"), "{seen}");
    let tried = client.execute_with(&session, &json!({"command": ["sh", "-c", "exec 3<>/dev/tty"]}))?;
    assert_eq!(tried["status"], "failed", "{tried:#}");
    drop(person);
    client.close(&session)?;
    Ok(())
}

fn output_without_end_waits_for_its_reader(shared: &Shared) -> Result<()> {
    let (client, session, mut person) = seated(shared)?;
    person.types("yes | head -c 3000000; printf '<%s>' over\n")?;
    // Nobody looks for a while; nothing is lost, and nothing grows.
    std::thread::sleep(Duration::from_millis(500));
    let mut lines = person.sees("<over>")?.matches("y\r\n").count();
    // The echo of the command ends with none.
    lines -= usize::from(lines > 1_500_000);
    assert_eq!(lines, 1_500_000);
    client.close(&session)?;
    Ok(())
}

fn who_may_not_sit_down_does_not(_: &Shared) -> Result<()> {
    let server = Server::start(Options::default())?;
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    let path = format!("/v1/sessions/{session}/terminal");
    let url = format!("{}{path}", client.base().replacen("http", "ws", 1));
    let key = format!("Bearer {}", client.key().context("a key")?);
    let refused = |url: &str, headers: &[(&str, &str)]| -> Result<u16> {
        open(url, headers)?.err().context("it is let in")
    };
    assert_eq!(refused(&url, &[])?, 401);
    assert_eq!(refused(&url, &[("authorization", "Bearer ah_wrong")])?, 401);
    assert_eq!(refused(&url, &[("authorization", &key), ("origin", "http://evil.example")])?, 403);
    assert_eq!(refused(&format!("{url}?rows=x"), &[("authorization", &key)])?, 422);
    assert_eq!(refused(&format!("{url}?size=1"), &[("authorization", &key)])?, 422);
    let unknown = url.replace(&session, &format!("ses_{}", "0".repeat(26)));
    assert_eq!(refused(&unknown, &[("authorization", &key)])?, 404);
    client.get(&path)?.expect(400);
    let answer = client
        .post(&format!("/v1/sessions/{session}/executions"), &json!({"language": "terminal", "code": ""}))?;
    assert_eq!(answer.expect(422)["errors"][0]["field"], "language");
    client.execute_with(&session, &json!({"command": ["true"]}))?;
    for wrong in [Message::text("ls"), Message::text(r#"{"resize":[-1,2]}"#)] {
        let mut person = Person::sit_down(&client, &session, "")?;
        person.socket.send(wrong)?;
        assert_eq!(person.closed()?, 1003);
    }
    // A wall that is missing is told, and nobody sits down.
    client.close(&session)?;
    server.stop()?;
    let server = Server::start(Options::default().fault("terminal"))?;
    let client = server.client()?;
    let session = client.session(&json!({}))?;
    assert_eq!(client.execute_with(&session, &json!({"command": ["true"]}))?["status"], "succeeded");
    let mut person = Person::sit_down(&client, &session, "")?;
    assert_eq!(person.closed()?, 1000);
    let execution = ended(&client, &session)?;
    assert_eq!(execution["status"], "lost", "{execution:#}");
    client.close(&session)?;
    server.stop()?;
    Ok(())
}
