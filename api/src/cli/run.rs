//! `anchorhold run`

use super::Remote;
use super::client::Client;
use super::show::{inert, print};
use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::{Map, Value};
use std::io::{self, IsTerminal, Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The longest program that is read; the server takes less.
const CODE_BYTES_MAX: u64 = 16 << 20;
/// As `timeout` of coreutils has it.
const TIMED_OUT: u8 = 124;
/// A limit ended it, or it was cancelled or lost: nothing that the program said.
const ENDED: u8 = 125;

/// What to run, and how.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The program; `-` reads it from standard input
    file: PathBuf,
    /// What it is written in [default: by the file's ending]
    #[arg(long)]
    language: Option<String>,
    /// How long it may run
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<f64>,
    #[command(flatten)]
    remote: Remote,
}

/// Runs a program in a session of its own. What it writes is written, and its end is this program's: its exit code,
/// 1 when it failed without one, 124 when its time was over, 125 when something else ended it.
pub fn run(arguments: &RunArguments) -> anyhow::Result<ExitCode> {
    let mut request = Map::new();
    request.insert("language".to_owned(), language(arguments)?.into());
    request.insert("code".to_owned(), code(&arguments.file)?.into());
    if let Some(seconds) = arguments.timeout {
        request.insert("timeout_seconds".to_owned(), seconds.into());
        request.insert("limits".to_owned(), serde_json::json!({ "execution_seconds": seconds }));
    }
    let answer = Client::new(&arguments.remote)?.post("/v1/run", &request.into())?;
    if arguments.remote.json {
        print(&format!("{answer:#}\n"))?;
    } else {
        write(io::stdout(), answer["stdout"].as_str().unwrap_or_default())?;
        write(io::stderr(), &errors(&answer))?;
    }
    Ok(ExitCode::from(exit_code(&answer)))
}

fn language(arguments: &RunArguments) -> anyhow::Result<String> {
    if let Some(language) = &arguments.language {
        return Ok(language.clone());
    }
    let language = match arguments.file.extension().and_then(|ending| ending.to_str()) {
        Some("py") => "python",
        Some("js" | "mjs") => "javascript",
        Some("ts" | "mts") => "typescript",
        Some("sh") => "bash",
        _ => anyhow::bail!("what {} is written in must be said: --language python", arguments.file.display()),
    };
    Ok(language.to_owned())
}

fn code(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin().take(CODE_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(CODE_BYTES_MAX + 1).read_to_string(&mut text))
    };
    let bytes = read.with_context(|| format!("cannot read {}", file.display()))?;
    ensure!(u64::try_from(bytes)? <= CODE_BYTES_MAX, "{} is too long", file.display());
    Ok(text)
}

/// What the program wrote to standard error, then how it failed, then what ended it.
fn errors(answer: &Value) -> String {
    let mut text = answer["stderr"].as_str().unwrap_or_default().to_owned();
    let mut add = |line: &str| {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    let error = &answer["error"];
    match error["traceback"].as_str() {
        Some(traceback) if !traceback.is_empty() => add(traceback),
        Some(_) => add(&format!("{}: {}", text_of(error, "name"), text_of(error, "message"))),
        None => {}
    }
    match (text_of(answer, "status"), text_of(answer, "limit")) {
        ("succeeded" | "failed", _) => {}
        ("limit_exceeded", limit) => add(&format!("anchorhold: ended by its limit of {limit}")),
        (status, _) => add(&format!("anchorhold: {}", status.replace('_', " "))),
    }
    if answer["truncated"] == true {
        add("anchorhold: some of the output was not kept");
    }
    text
}

fn text_of<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

fn exit_code(answer: &Value) -> u8 {
    let own = answer["exit_code"].as_u64().and_then(|code| u8::try_from(code & 0xff).ok());
    match answer["status"].as_str() {
        Some("succeeded") => 0,
        Some("failed") => own.filter(|code| *code != 0).unwrap_or(1),
        Some("timed_out") => TIMED_OUT,
        _ => ENDED,
    }
}

/// A program nobody trusts wrote this: a terminal sees it line by line and inert, anything else as it is.
fn write(mut to: impl Write + IsTerminal, text: &str) -> io::Result<()> {
    let outcome = if to.is_terminal() {
        text.split_inclusive('\n').try_for_each(|line| {
            let (body, end) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
            let cells: Vec<String> = body.split('\t').map(inert).collect();
            to.write_all(cells.join("\t").as_bytes())?;
            to.write_all(end.as_bytes())
        })
    } else {
        to.write_all(text.as_bytes())
    };
    match outcome.and_then(|()| to.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_end_of_a_program_is_told_by_the_exit_code() {
        for (answer, code) in [
            (json!({ "status": "succeeded" }), 0),
            (json!({ "status": "failed", "exit_code": 3 }), 3),
            (json!({ "status": "failed", "exit_code": null }), 1),
            (json!({ "status": "failed", "exit_code": 256 }), 1),
            (json!({ "status": "timed_out" }), 124),
            (json!({ "status": "limit_exceeded", "limit": "memory" }), 125),
            (json!({ "status": "lost" }), 125),
        ] {
            assert_eq!(exit_code(&answer), code, "{answer}");
        }
    }

    #[test]
    fn errors_are_told_after_what_was_written() {
        let error = json!({ "name": "E", "message": "m", "traceback": "" });
        let answer = json!({ "status": "failed", "stderr": "a", "error": error });
        assert_eq!(errors(&answer), "a\nE: m\n");
        let answer =
            json!({ "status": "limit_exceeded", "limit": "memory", "stderr": "", "truncated": true });
        assert_eq!(
            errors(&answer),
            "anchorhold: ended by its limit of memory\nanchorhold: some of the output was not kept\n"
        );
    }
}
