//! Batches: several changes that the API asked for as one.

use super::transaction::{Staged, Transaction};
use super::transfer::write_all;
use super::tree::{Path, Tree};
use anchorhold_jail::hatch::{Change, FileError};
use anchorhold_jail::id::ExecutionId;
use rustix::fs::Mode;
use std::sync::atomic::{AtomicBool, Ordering};

/// A change whose paths were checked and whose content is there: a rename or two away.
enum Step {
    Place(Path, Staged),
    Remove(Path, bool),
    Rename(Path, Path),
    MakeDirectory(Path),
}

/// Makes all the changes in their order, or none. An error comes with the number of the change that it is about.
pub fn apply(
    tree: &Tree,
    operation: ExecutionId,
    changes: &[Change],
    cancelled: &AtomicBool,
) -> Result<(), (usize, FileError)> {
    let mut transaction = Transaction::begin(tree, operation).map_err(|why| (0, why))?;
    let mut steps = Vec::with_capacity(changes.len());
    for (index, change) in changes.iter().enumerate() {
        steps.push(prepare(&mut transaction, change).map_err(|why| (index, why))?);
    }
    for (index, step) in steps.into_iter().enumerate() {
        if cancelled.load(Ordering::Relaxed) {
            return Err((index, FileError::Incomplete));
        }
        make(&mut transaction, step).map_err(|why| (index, why))?;
    }
    transaction.commit();
    Ok(())
}

fn prepare(transaction: &mut Transaction<'_>, change: &Change) -> Result<Step, FileError> {
    Ok(match change {
        Change::Write { path, content } => {
            let path = Path::parse(path)?;
            let (staged, file) = transaction.stage(Mode::from_raw_mode(0o644))?;
            write_all(&file, content)?;
            Step::Place(path, staged)
        }
        Change::Delete { path, recursive } => Step::Remove(Path::parse(path)?, *recursive),
        Change::Move { from, to } => Step::Rename(Path::parse(from)?, Path::parse(to)?),
        Change::MakeDirectory { path } => Step::MakeDirectory(Path::parse(path)?),
    })
}

fn make(transaction: &mut Transaction<'_>, step: Step) -> Result<(), FileError> {
    match step {
        Step::Place(path, staged) => transaction.place(&path, staged),
        Step::Remove(path, recursive) => transaction.remove(&path, recursive),
        Step::Rename(from, to) => transaction.rename(&from, &to),
        Step::MakeDirectory(path) => transaction.make_directory(&path),
    }
}
