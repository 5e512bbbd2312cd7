//! A program's standard input: what came with it, and what follows while it runs.

use crate::life::lock;
use crate::watch::Watch;
use anchorhold_jail::id::ExecutionId;
use bytes::{Bytes, BytesMut};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often a program that waits for input is looked at for a reason to stop.
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
struct Left {
    execution: Option<ExecutionId>,
    bytes: BytesMut,
    open: bool,
}

/// What is left of the input.
#[derive(Debug, Default)]
pub struct Input {
    left: Mutex<Left>,
    more: Condvar,
}

impl Input {
    /// An execution begins with this; `open`: more may follow.
    pub fn begin(&self, execution: ExecutionId, bytes: Vec<u8>, open: bool) {
        *lock(&self.left) =
            Left { execution: Some(execution), bytes: BytesMut::from(Bytes::from(bytes)), open };
    }

    /// More for it; `end`: and no more.
    pub fn add(&self, execution: ExecutionId, bytes: &[u8], end: bool) {
        let mut left = lock(&self.left);
        if left.execution != Some(execution) || !left.open {
            return;
        }
        left.bytes.extend_from_slice(bytes);
        left.open = !end;
        self.more.notify_all();
    }

    /// Whether a read would have to wait.
    pub fn is_dry(&self) -> bool {
        let left = lock(&self.left);
        left.bytes.is_empty() && left.open
    }

    /// At most so many bytes; waits for the first. Empty at the end, and when the program is to stop.
    pub fn read(&self, most: usize, watch: &Watch) -> Bytes {
        let mut left = lock(&self.left);
        while left.bytes.is_empty() && left.open && !watch.is_stopping() {
            left = self.more.wait_timeout(left, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
        let length = most.min(left.bytes.len());
        left.bytes.split_to(length).freeze()
    }
}
