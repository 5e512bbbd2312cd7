//! Which walls stand here: asks the warden's own doctor, and shows it to people.

use crate::serve::warden_program;
use anyhow::Context as _;
use serde::Deserialize;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// What the warden's doctor says of one thing.
#[derive(Debug, Deserialize)]
struct Finding {
    name: String,
    standing: bool,
    required: bool,
    detail: String,
}

/// Prints what the warden's doctor finds. The exit code is the doctor's: 1 when a required wall does not stand.
pub fn doctor(json: bool, config: Option<&Path>) -> anyhow::Result<ExitCode> {
    let program = warden_program();
    let mut command = Command::new(&program);
    command.args(["doctor", "--json"]).stderr(Stdio::inherit());
    if let Some(file) = config {
        command.arg("--config").arg(file);
    }
    let output = command.output().with_context(|| format!("cannot start {}", program.display()))?;
    if json {
        io::stdout().write_all(&output.stdout)?;
    } else {
        let findings: Vec<Finding> = serde_json::from_slice(&output.stdout)
            .context("the warden's doctor said something unreadable")?;
        print!("{}", table(&findings));
    }
    let code = output.status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// One line per finding, required ones that are missing marked.
fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.name.chars().count()).max().unwrap_or(0);
    let line = |finding: &Finding| {
        let state = match (finding.standing, finding.required) {
            (true, _) => "ok",
            (false, true) => "MISSING",
            (false, false) => "advice",
        };
        format!("{:width$}  {state:7}  {}\n", finding.name, finding.detail)
    };
    findings.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_become_a_table() {
        let findings = r#"[{"name":"seccomp","standing":true,"required":true,"detail":"35 calls"},
            {"name":"landlock","standing":false,"required":false,"detail":"not built in"},
            {"name":"cgroup","standing":false,"required":true,"detail":"read-only"}]"#;
        let findings: Vec<Finding> = serde_json::from_str(findings).unwrap();
        let shown =
            "seccomp   ok       35 calls\nlandlock  advice   not built in\ncgroup    MISSING  read-only\n";
        assert_eq!(table(&findings), shown);
    }
}
