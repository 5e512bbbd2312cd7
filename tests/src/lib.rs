//! What tests, the demo and the benchmark share: a real server in a directory of its own, and a client of it.

mod client;
pub mod host;
mod server;

pub use client::{Answer, Client, Event, EventStream};
pub use server::{Options, Server, image_dir, program};
