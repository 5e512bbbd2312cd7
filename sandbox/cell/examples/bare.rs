//! A cell without walls, for tests and measurements: its hatch is standard input.
//!
//! ```text
//! bare files
//! bare wasm IMAGE
//! ```

use anchorhold_cell::life::Walling;
use anchorhold_cell::{engine, files, wasm};
use anchorhold_jail::hatch::Commit;
use anchorhold_jail::walls::{Wall, Walls};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

struct NoWalls;

impl Walling for NoWalls {
    fn restrict(&mut self, _commit: &Commit, _workspace: BorrowedFd<'_>) -> Result<(), String> {
        Ok(())
    }

    fn seal(&mut self) -> Result<Walls, String> {
        if std::env::var_os("BARE_TIMES").is_some() {
            // A mark for strace: what comes after must be on the class's list of system calls.
            eprintln!("sealed");
        }
        let mut walls = Walls::default();
        walls.push("seccomp", Wall::Absent("this is a test".into()));
        Ok(walls)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // As in a real cell, where the jail and the program set them.
    setrlimit(Resource::Nofile, Rlimit { current: Some(128), maximum: Some(128) })?;
    setrlimit(Resource::Stack, Rlimit { current: Some(engine::HOST_STACK_BYTES as u64), maximum: None })?;
    let hatch = std::io::stdin().as_fd().try_clone_to_owned()?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["files"] => files::run(hatch, &mut NoWalls),
        ["wasm", image] => {
            let began = Instant::now();
            let template = wasm::Template::load(std::fs::File::open(image)?, wasm::Own::open().ok())?;
            if std::env::var_os("BARE_TIMES").is_some() {
                eprintln!("loaded and rehearsed in {:?}, {template:?}", began.elapsed());
            }
            wasm::run(template, hatch, &mut NoWalls)
        }
        _ => Err("see the top of examples/bare.rs".into()),
    }
}
