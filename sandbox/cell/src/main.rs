//! The program inside a cell.
//!
//! The warden starts it as a zygote, which forks cells. Started by anything else it says so and ends.

use anchorhold_cell::walls::JailWalls;
use anchorhold_cell::{browser, engine, files, life, native, wasm};
use anchorhold_jail::control::Class;
use anchorhold_jail::zygote::Station;
use std::convert::Infallible;
use std::process::ExitCode;

fn main() -> ExitCode {
    match zygote() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("anchorhold-cell: {error}");
            ExitCode::FAILURE
        }
    }
}

fn zygote() -> Result<(), Box<dyn std::error::Error>> {
    let mut station = Station::from_env()?;
    raise_stack_limit()?;
    // There is no /proc afterwards. Dropped before the first fork.
    let own = wasm::Own::open().ok();
    let programs = (station.class == Class::Native).then(native::programs).transpose()?;
    station.confine()?;
    match station.class {
        Class::Files => {
            station.serve(|hatch| -> Infallible { files::run(hatch.0, &mut JailWalls::new(Class::Files)) })?
        }
        Class::Browser => station
            .serve(|hatch| -> Infallible { browser::run(hatch.0, &mut JailWalls::new(Class::Browser)) })?,
        Class::Native => {
            let programs = programs.ok_or("a native zygote needs its programs")?;
            match native::become_zygote(station, programs)? {}
        }
        Class::Wasm => {
            let image = station.image.take().ok_or("a wasm zygote needs an image")?;
            let mut template = Some(wasm::Template::load(image, own)?);
            station.serve(move |hatch| -> Infallible {
                // Taken in the child's copy of this process; the zygote's own stays.
                match template.take() {
                    Some(template) => wasm::run(template, hatch.0, &mut JailWalls::new(Class::Wasm)),
                    None => life::end(),
                }
            })?;
        }
    }
    Ok(())
}

/// Guests recurse on the main thread's stack. It grows up to the soft limit at the time, so raising that here is
/// enough; the kernel keeps 128 MiB of address space free below it.
fn raise_stack_limit() -> Result<(), String> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let needed = engine::HOST_STACK_BYTES as u64;
    let limit = getrlimit(Resource::Stack);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let raised = Rlimit { current: Some(needed), maximum: limit.maximum };
    setrlimit(Resource::Stack, raised).map_err(|e| format!("a stack of {needed} bytes: {e}"))
}
