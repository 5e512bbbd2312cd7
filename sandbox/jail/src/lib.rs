//! The walls of anchorhold: how cells are built, watched and killed, and the words spoken with them.
//!
//! This crate is the only home of `unsafe`. It links neither tokio nor wasmtime, and every program that uses it to
//! touch namespaces is single-threaded while it does.

pub mod cgroup;
pub mod control;
pub mod counters;
mod dynmods;
pub mod egress;
pub mod fault;
pub mod hatch;
pub mod id;
mod identity;
pub mod lock;
pub mod loopback;
pub mod packet;
pub mod program;
pub mod python;
pub mod root;
pub mod seccomp;
pub mod settings;
mod snapshot;
pub mod twin;
pub mod walls;
pub mod warden;
pub mod workspace;
pub mod zygote;
