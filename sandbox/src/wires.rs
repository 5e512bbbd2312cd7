//! A conversation with a cell beside its hatch: two pipes of bytes, which nobody here reads or bounds but by what a pipe
//! holds.

use crate::error::Error;
use crate::files::content_pipe;
use std::os::fd::OwnedFd;
use tokio::net::unix::pipe;

/// The cell's ends. When they are dropped, as with the cell, the other side reads the end.
#[derive(Debug)]
pub struct Wires {
    pub(crate) heard: OwnedFd,
    pub(crate) told: OwnedFd,
}

/// Our ends.
#[derive(Debug)]
pub struct Line {
    /// What the cell says.
    pub from: pipe::Receiver,
    /// What it hears.
    pub to: pipe::Sender,
}

/// A new conversation. Needs a tokio runtime.
///
/// # Errors
/// [`Error::Capacity`] when no pipe is to be had.
pub fn wires() -> Result<(Wires, Line), Error> {
    let no_pipe = |error: std::io::Error| Error::Capacity(format!("no pipe: {error}"));
    let ((heard, to), (from, told)) = (content_pipe()?, content_pipe()?);
    let from = pipe::Receiver::from_owned_fd(from).map_err(no_pipe)?;
    let to = pipe::Sender::from_owned_fd(to).map_err(no_pipe)?;
    Ok((Wires { heard, told }, Line { from, to }))
}
