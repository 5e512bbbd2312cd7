//! The hatch's receiving end, for cells whose main thread converses with a program: a thread of its own, which answers
//! new listeners and passes the rest on.

use crate::life;
use crate::outbox::Outbox;
use anchorhold_jail::hatch::{Ended, Execute, FromCell, How, ToCell};
use anchorhold_jail::id::ExecutionId;
use anchorhold_jail::packet::{Assembler, PacketError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// The thread decodes messages of some megabytes, on the heap.
const STACK_BYTES: usize = 256 * 1024;

/// What is passed on.
#[derive(Debug)]
pub enum Order {
    /// Run this; with the descriptors that came with it.
    Execute(Execute, Vec<OwnedFd>),
    /// Somebody watches, by these descriptors.
    Watch(Vec<OwnedFd>),
    /// End this one, if it runs.
    Cancel(ExecutionId),
    /// More input for this one, if it runs.
    Input {
        /// Which one.
        execution: ExecutionId,
        /// More of it.
        bytes: Vec<u8>,
        /// And no more.
        end: bool,
    },
}

/// Starts the thread. It ends the cell when the warden and the API are gone, or something that is neither speaks.
pub fn receive(outbox: &Arc<Outbox>, orders: UnboundedSender<Order>) -> io::Result<life::Starting> {
    let outbox = Arc::clone(outbox);
    life::spawn(STACK_BYTES, move || {
        let mut assembler = Assembler::default();
        loop {
            let heard = assembler.receive_next(outbox.hatch().as_fd());
            let handled = heard.and_then(|heard| match heard {
                Some((message, descriptors)) => handle(&outbox, &orders, message, descriptors),
                None => Ok(()),
            });
            if handled.is_err() {
                life::end();
            }
        }
    })
}

fn handle(
    outbox: &Outbox,
    orders: &UnboundedSender<Order>,
    message: ToCell,
    descriptors: Vec<OwnedFd>,
) -> Result<(), PacketError> {
    let order = match message {
        ToCell::Execute(job) => Order::Execute(job, descriptors),
        ToCell::Watch => Order::Watch(descriptors),
        ToCell::Cancel { execution } => Order::Cancel(execution),
        ToCell::Input { execution, bytes, end } => Order::Input { execution, bytes, end },
        ToCell::Attach { generation } => return outbox.attach(generation),
        ToCell::Acknowledge { execution } => {
            outbox.acknowledge(execution);
            return Ok(());
        }
        ToCell::Prepare { .. } | ToCell::Commit(_) | ToCell::File(_) | ToCell::Complete { .. } => {
            return Err(PacketError::Malformed("not for a cell that runs programs"));
        }
    };
    orders.send(order).map_err(|_| PacketError::Closed)
}

/// How an execution ended that printed nothing.
pub fn ended(execution: ExecutionId, how: How, wall: Duration) -> Ended {
    Ended {
        execution,
        how,
        error: None,
        exit_code: None,
        wall_us: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
        stdout_bytes: 0,
        stderr_bytes: 0,
        state_lost: false,
        memory_refused: false,
    }
}

/// The API runs one at a time; a second one is its mistake and costs it nothing.
pub fn refuse(outbox: &Outbox, execution: ExecutionId, why: &str) {
    let mut busy = ended(execution, How::Failed, Duration::ZERO);
    busy.error = Some(error("CELL_BUSY", why));
    // The receiving thread sees when nobody listens any more.
    let _told = outbox.say(&FromCell::Ended(busy));
}

/// An error in the shape of a guest's.
pub fn error(name: &str, message: &str) -> Vec<u8> {
    serde_json::json!({"name": name, "message": message, "traceback": ""}).to_string().into_bytes()
}
