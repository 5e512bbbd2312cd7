//! The command line, as people and scripts use it: the real program against a real server.

use crate::Shared;
use anchorhold_tests::{Client, image_dir, program};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

tests!(
    a_program_is_run_and_its_end_is_told,
    tenants_and_keys_are_administered,
    usage_is_shown,
    images_are_listed,
    mistakes_are_explained,
);

/// The program, with a server to talk to.
struct CommandLine {
    base: String,
    data_dir: PathBuf,
}

impl CommandLine {
    fn of(shared: &Shared) -> Result<Self> {
        shared.with(|server| Ok(Self { base: server.base().to_owned(), data_dir: server.data_dir() }))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("anchorhold"));
        command.args(arguments).env_remove("ANCHORHOLD_API_KEY");
        command.env("ANCHORHOLD_URL", &self.base).env("ANCHORHOLD_DATA_DIR", &self.data_dir);
        command
    }

    fn output(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut command = self.command(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
        Ok(child.wait_with_output()?)
    }

    /// Standard output of a command that must succeed.
    fn text(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments, "")?;
        ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn json(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [arguments, &["--json"]].concat();
        Ok(serde_json::from_str(&self.text(&arguments)?)?)
    }
}

fn a_program_is_run_and_its_end_is_told(shared: &Shared) -> Result<()> {
    let cli = CommandLine::of(shared)?;
    let python = |code: &str, more: &[&str]| -> Result<(Option<i32>, String, String)> {
        let output = cli.output(&[&["run", "--language", "python", "-"], more].concat(), code)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((output.status.code(), text(output.stdout), text(output.stderr)))
    };
    let said = python("import sys\nprint('out')\nprint('err', file=sys.stderr)", &[])?;
    assert_eq!(said, (Some(0), "out\n".to_owned(), "err\n".to_owned()));
    assert_eq!(python("import sys\nsys.exit(7)", &[])?.0, Some(7));
    let (code, out, err) = python("print(1)\n1/0", &[])?;
    assert_eq!((code, out.as_str()), (Some(1), "1\n"));
    assert!(err.contains("ZeroDivisionError"), "{err}");
    let (code, _, err) = python("while True: pass", &["--timeout", "0.5"])?;
    assert_eq!(code, Some(124), "{err}");
    assert!(err.contains("anchorhold: timed out"), "{err}");

    let file = tempfile::Builder::new().prefix("anchorhold-test-").suffix(".js").tempfile()?;
    std::fs::write(file.path(), "console.log(6 * 7)")?;
    let path = file.path().to_str().context("a path")?;
    assert_eq!(cli.text(&["run", path])?, "42\n");
    assert_eq!(cli.json(&["run", path])?["stdout"], "42\n");
    Ok(())
}

fn tenants_and_keys_are_administered(shared: &Shared) -> Result<()> {
    let cli = CommandLine::of(shared)?;
    let made = cli.json(&[
        "tenant",
        "create",
        "cli-t",
        "--sessions",
        "3",
        "--memory-bytes",
        "2GiB",
        "--budget",
        "1.5",
    ])?;
    let quotas = json!({"sessions": 3, "cells": null, "browsers": null, "egress_bytes": null, "concurrent_executions": null, "executions_per_second": null,
        "memory_bytes": 2u64 << 30, "workspace_bytes": null, "budget_picos": "1500000000000"});
    assert_eq!(made["quotas"], quotas);
    // What is not named stays, `none` takes away.
    let set = cli.json(&["tenant", "set", "cli-t", "--sessions", "none", "--workspace-bytes", "1GiB"])?;
    assert_eq!(
        (&set["quotas"]["sessions"], &set["quotas"]["workspace_bytes"]),
        (&json!(null), &json!(1u64 << 30))
    );
    assert_eq!(set["quotas"]["memory_bytes"], quotas["memory_bytes"]);
    let shown = cli.text(&["tenant", "list"])?;
    let line = shown.lines().find(|line| line.contains("cli-t")).context("the tenant")?;
    assert!(line.contains("enabled") && line.contains("$1.50"), "{shown}");
    assert!(shown.starts_with("ID "), "{shown}");

    let key = cli.text(&["key", "create", "cli-t", "ci"])?;
    let key = key.strip_suffix('\n').context("one line")?;
    let client: Client = shared.client()?.with_key(Some(key));
    client.get("/v1/sessions")?.expect(200);
    // The key of a tenant is no key to administer with; a key comes from the environment or a file, never a flag.
    let refused = cli.command(&["tenant", "list"]).env("ANCHORHOLD_API_KEY", key).output()?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("(forbidden, req_"), "{refused:?}");
    assert!(cli.text(&["key", "list", "cli-t"])?.contains("ci "));
    cli.text(&["key", "revoke", "cli-t", "ci"])?;
    assert_eq!(client.get("/v1/sessions")?.problem(401), "unauthorized");
    assert!(cli.json(&["key", "list", "cli-t"])?[0]["revoked_at"].is_string());

    let second = cli.text(&["key", "create", "cli-t", "ci"])?;
    let file = tempfile::Builder::new().prefix("anchorhold-test-").tempfile()?;
    std::fs::write(file.path(), second)?;
    let path = file.path().to_str().context("a path")?;
    cli.text(&["usage", "--key-file", path])?;
    cli.text(&["tenant", "set", "cli-t", "--disable"])?;
    assert_eq!(cli.output(&["usage", "--key-file", path], "")?.status.code(), Some(1));
    assert!(cli.text(&["tenant", "set", "cli-t", "--enable"])?.contains("enabled"));
    Ok(())
}

fn usage_is_shown(shared: &Shared) -> Result<()> {
    let cli = CommandLine::of(shared)?;
    cli.output(&["run", "--language", "python", "-"], "1")?;
    let shown = cli.text(&["usage", "--group-by", "kind", "--from", "2020-01-01T00:00:00Z"])?;
    assert!(shown.lines().any(|line| line.starts_with("execution ") && line.contains('$')), "{shown}");
    let lines = cli.json(&["usage"])?;
    assert!(lines[0]["records"].as_u64().is_some_and(|records| records > 0), "{lines}");
    assert_eq!(cli.json(&["usage", "--from", "2100-01-01T00:00:00Z"])?, json!([]));
    Ok(())
}

fn images_are_listed(shared: &Shared) -> Result<()> {
    let cli = CommandLine::of(shared)?;
    let store = image_dir().display().to_string();
    let shown = cli.text(&["image", "list", "--image-dir", &store])?;
    assert!(shown.contains("python-wasm") && shown.contains("sha256:"), "{shown}");
    Ok(())
}

fn mistakes_are_explained(shared: &Shared) -> Result<()> {
    let cli = CommandLine::of(shared)?;
    for (arguments, told) in [
        (&["tenant", "set", "nobody", "--disable"][..], "there is no tenant nobody"),
        (&["tenant", "create", "<script>"], "name: must be 1 to 64 of"),
        (&["run", "/nonexistent.py"], "cannot read /nonexistent.py"),
        (&["run", "/etc/hostname"], "--language python"),
        (&["usage", "--url", "http://127.0.0.1:1"], "no answer from http://127.0.0.1:1"),
        (&["usage", "--url", "https://example.org"], "only http://"),
        (&["usage", "--key-file", "/nonexistent"], "no key: /nonexistent"),
        (&["usage", "--from", "yesterday"], "from: must be a time"),
    ] {
        let output = cli.output(arguments, "")?;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.contains(told), "{arguments:?}: {error}");
    }
    for (arguments, told) in
        [(&["tenant", "create", "--help"][..], "Example:"), (&["run", "--help"], "Exit code:")]
    {
        assert!(cli.text(arguments)?.contains(told), "{arguments:?}");
    }
    Ok(())
}
