//! Smoke programs: `smoke/<name>.<language>` and `smoke/<name>.out`, the transcript that it must give. Programs of a
//! shared folder count too; their transcripts are the image's own.
//!
//! A line that starts with `#%%` or `//%%` begins the next cell: one more execution in the same
//! session. The rest of that line is an inline TOML table of options:
//!
//! ```text
//! #%% { stdin = "a\nb\n", timeout_ms = 200, env = { NAME = "value" }, cwd = "/tmp" }
//! ```
//!
//! `sessions_differ = true` in a program's first cell: two sessions must give different transcripts;
//! such a program has no `.out` file.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{guest::Guest, recipe::Recipe, store::Image};

/// One execution.
#[derive(Clone)]
pub struct Cell {
    pub code: String,
    pub stdin: Option<String>,
    pub timeout: Option<Duration>,
    pub env: BTreeMap<String, String>,
    pub cwd: Option<String>,
    sessions_differ: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    stdin: Option<String>,
    timeout_ms: Option<u64>,
    env: BTreeMap<String, String>,
    cwd: Option<String>,
    sessions_differ: bool,
}

impl Cell {
    fn new(options: Options) -> Self {
        Self {
            code: String::new(),
            stdin: options.stdin,
            timeout: options.timeout_ms.map(Duration::from_millis),
            env: options.env,
            cwd: options.cwd,
            sessions_differ: options.sessions_differ,
        }
    }
}

/// Cut a program into its cells. Without a marker it is one cell.
pub fn cells(text: &str) -> Result<Vec<Cell>> {
    let mut cells: Vec<Cell> = Vec::new();
    for line in text.lines() {
        if let Some(options) = line.strip_prefix("#%%").or_else(|| line.strip_prefix("//%%")) {
            cells.push(Cell::new(read_options(options)?));
            continue;
        }
        if cells.is_empty() {
            cells.push(Cell::new(Options::default()));
        }
        if let Some(cell) = cells.last_mut() {
            cell.code.push_str(line);
            cell.code.push('\n');
        }
    }
    // Comments before the first marker are no execution.
    if cells.len() > 1
        && cells[0].code.lines().all(|l| l.is_empty() || l.starts_with('#') || l.starts_with("//"))
    {
        cells.remove(0);
    }
    Ok(cells)
}

fn read_options(text: &str) -> Result<Options> {
    #[derive(Deserialize)]
    struct Line {
        options: Options,
    }
    if text.trim().is_empty() {
        return Ok(Options::default());
    }
    let line: Line =
        toml::from_str(&format!("options = {text}")).with_context(|| format!("options of a cell: {text}"))?;
    Ok(line.options)
}

pub fn run(recipe: &Recipe, image: &Image, bless: bool) -> Result<()> {
    let transcripts = recipe.folder.join("smoke");
    let programs = programs(recipe)?;
    let mut failures = Vec::new();
    for program in &programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Err(error) = check(program, &transcripts, image, bless) {
            eprintln!("{}: smoke/{name}: FAILED\n{error:#}", recipe.name);
            failures.push(name);
        }
    }
    if failures.is_empty() {
        eprintln!("{}: {} smoke programs passed", recipe.name, programs.len());
        return Ok(());
    }
    bail!("{} of {} smoke programs failed: {}", failures.len(), programs.len(), failures.join(", "))
}

fn programs(recipe: &Recipe) -> Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    for folder in recipe.shared.iter().chain([&recipe.folder]).map(|folder| folder.join("smoke")) {
        if !folder.exists() {
            continue;
        }
        for entry in fs::read_dir(&folder)? {
            programs.push(entry?.path());
        }
    }
    programs.retain(|path| path.extension().is_some_and(|extension| extension != "out"));
    programs.sort();
    if programs.is_empty() {
        bail!("an image without smoke programs is not built");
    }
    Ok(programs)
}

fn check(program: &Path, transcripts: &Path, image: &Image, bless: bool) -> Result<()> {
    let cells = cells(&fs::read_to_string(program)?)?;
    let transcript = session(&cells, image)?;
    if cells.first().is_some_and(|cell| cell.sessions_differ) {
        if session(&cells, image)? == transcript {
            bail!("two sessions gave the same transcript:\n{transcript}");
        }
        return Ok(());
    }
    let name = program.file_stem().context("a program without a name")?;
    let expected_path = transcripts.join(name).with_extension("out");
    if bless {
        return Ok(fs::write(&expected_path, transcript)?);
    }
    let expected =
        fs::read_to_string(&expected_path).with_context(|| format!("{}", expected_path.display()))?;
    if transcript != expected {
        bail!("{}", difference(&expected, &transcript));
    }
    Ok(())
}

fn session(cells: &[Cell], image: &Image) -> Result<String> {
    let mut guest = Guest::new(image, None)?;
    guest.start(&BTreeMap::new())?;
    let mut transcript = String::new();
    for (index, cell) in cells.iter().enumerate() {
        let finished = guest.execute(cell).with_context(|| format!("cell {}", index + 1))?;
        write!(transcript, "#%% {}\n{finished}", index + 1)?;
    }
    Ok(transcript)
}

/// The first lines that differ, with a little of what stands before.
fn difference(expected: &str, found: &str) -> String {
    let (expected, found): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let same = expected.iter().zip(&found).take_while(|(a, b)| a == b).count();
    let mut text = String::new();
    let mut show = |mark: &str, lines: &[&str]| {
        for line in lines {
            text.push_str(&format!("  {mark} {line}\n"));
        }
    };
    show(" ", &expected[same.saturating_sub(3)..same]);
    show("-", &expected[same..expected.len().min(same + 8)]);
    show("+", &found[same..found.len().min(same + 8)]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_markers_is_one_cell() {
        let cells = cells("a = 1\nb = 2\n").unwrap();
        assert_eq!(cells.len(), 1);
        assert_eq!(cells[0].code, "a = 1\nb = 2\n");
    }

    #[test]
    fn markers_cut_and_carry_options() {
        let text = "# about\n#%%\nfirst\n//%% { stdin = \"a\\n\", timeout_ms = 5, env = { K = \"v\" }, cwd = \"/tmp\" }\nsecond\n";
        let cells = cells(text).unwrap();
        assert_eq!(cells.len(), 2);
        assert_eq!(cells[0].code, "first\n");
        assert_eq!(cells[1].stdin.as_deref(), Some("a\n"));
        assert_eq!(cells[1].timeout, Some(Duration::from_millis(5)));
        assert_eq!(cells[1].env["K"], "v");
        assert_eq!(cells[1].cwd.as_deref(), Some("/tmp"));
    }

    #[test]
    fn an_unknown_option_is_refused() {
        assert!(cells("#%% { stdinn = \"\" }\n").is_err());
    }

    #[test]
    fn programs_of_a_shared_folder_count() {
        let images = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = images.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let fields = "name = \"one\"\nkind = \"wasm\"\nlanguage = \"javascript\"\nversion = \"1\"";
        write("toolchain.sh", "");
        write("one/image.toml", &format!("{fields}\nshared = [\"both\"]\n"));
        write("both/lib.rs", "");
        let found = || {
            let recipe = Recipe::read(&images.path().join("one"), crate::recipe::Processor::This).unwrap();
            let names = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
            programs(&recipe).map(|found| found.into_iter().map(names).collect::<Vec<_>>())
        };
        assert!(found().is_err(), "there is none");
        write("both/smoke/b.js", "");
        write("one/smoke/a.js", "");
        write("one/smoke/b.out", "");
        assert_eq!(found().unwrap().len(), 2);
        assert!(found().unwrap().contains(&"b.js".to_owned()));
    }

    #[test]
    fn a_difference_shows_where_it_begins() {
        let text = difference("a\nb\nc\n", "a\nB\nc\n");
        assert!(text.starts_with("    a\n  - b\n"), "{text}");
        assert!(text.contains("  + B\n"));
    }
}
