//! What went wrong on our side.

use crate::quota::Scarce;
use anchorhold_jail::control::Refusal;
use anchorhold_jail::hatch::FileError;

/// Why something could not be done. Never the guest's fault, except [`Error::File`] and
/// [`Error::Change`]; never billed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No room for a cell now; try again later.
    #[error("no room: {0}")]
    Capacity(String),
    /// The session's group has as many as it may.
    #[error("the group may have no more of these: {0:?}, {1}")]
    Quota(Scarce, u64),
    /// A required wall could not be built.
    #[error("a wall could not be built: {0}")]
    Isolation(String),
    /// The warden has no such image.
    #[error("no such image")]
    NoImage,
    /// What happened is not known: the warden or the cell's record of it is gone.
    #[error("lost")]
    Lost,
    /// The session is closing or closed.
    #[error("the session is closed")]
    Closed,
    /// As many executions wait in the context as may.
    #[error("too many executions wait in this context")]
    ContextBusy,
    /// Code, input and environment together are longer than a message to a cell.
    #[error("code, input and environment are too long together")]
    TooLarge,
    /// The files cell refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The files cell refused one of several changes, and made none.
    #[error("{why}")]
    Change {
        /// Which one, counted from 0.
        index: u32,
        /// Why.
        why: FileError,
    },
    /// There is no warden now.
    #[error("the warden is away")]
    Unavailable,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Capacity(why) => Self::Capacity(why),
            Refusal::Walls(why) => Self::Isolation(why),
            Refusal::NoImage => Self::NoImage,
            // The warden ended it (expiry) before we heard of it.
            Refusal::Session(_) => Self::Closed,
        }
    }
}
