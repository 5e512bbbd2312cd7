//! The walls of `anchorhold_jail`, as the steps that a cell takes.

use crate::life::Walling;
use anchorhold_jail::control::Class;
use anchorhold_jail::hatch::Commit;
use anchorhold_jail::lock::{self, Restricted};
use anchorhold_jail::walls::Walls;
use std::os::fd::BorrowedFd;

/// Those of a class.
#[derive(Debug)]
pub struct JailWalls {
    class: Class,
    restricted: Option<Restricted>,
}

impl JailWalls {
    /// None stands yet.
    pub fn new(class: Class) -> Self {
        Self { class, restricted: None }
    }
}

impl Walling for JailWalls {
    fn restrict(&mut self, commit: &Commit, workspace: BorrowedFd<'_>) -> Result<(), String> {
        self.restricted = Some(lock::restrict(self.class, commit, workspace).map_err(|e| e.to_string())?);
        Ok(())
    }

    fn seal(&mut self) -> Result<Walls, String> {
        let restricted = self.restricted.take().ok_or("sealed before restricted")?;
        restricted.seal().map_err(|e| e.to_string())
    }
}
