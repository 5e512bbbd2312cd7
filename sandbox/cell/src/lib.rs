//! What runs inside a cell.
//!
//! Four kinds of worker, each forked from a warm zygote: [`wasm`] runs a guest's programs ([`typescript`] makes JavaScript
//! of some of them first), [`native`] a real interpreter's, [`files`] does the API's file operations, [`browser`] drives a
//! Chromium. A worker's life:
//! `Prepared` → `Commit` from the warden → restrict → threads → seal → `Ready` → work until the hatch closes or the
//! interpreter is lost. Nothing a guest wrote is read before the seal.
//!
//! The library exists so that tests and measurements can run a worker without its walls; the program is
//! `anchorhold-cell`.

pub mod browser;
pub mod engine;
pub mod files;
pub mod life;
pub mod native;
pub mod orders;
pub mod outbox;
pub mod typescript;
pub mod walls;
pub mod wasm;
pub mod watch;
