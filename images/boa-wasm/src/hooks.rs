//! What the engine asks and tells its host: local time, and promises that were rejected and that nobody handles.
//!
//! A rejection counts when the microtasks have run and still nobody took it, as in Node.

use std::cell::RefCell;

use boa_engine::builtins::promise::{OperationType, Promise};
use boa_engine::context::HostHooks;
use boa_engine::object::builtins::JsPromise;
use boa_engine::{Context, JsObject, JsValue};

#[derive(Default)]
pub struct Hooks {
    unhandled: RefCell<Vec<JsObject>>,
}

impl HostHooks for Hooks {
    fn promise_rejection_tracker(
        &self,
        promise: &JsObject<Promise>,
        operation: OperationType,
        _context: &mut Context,
    ) {
        let promise = promise.clone().upcast();
        let mut unhandled = self.unhandled.borrow_mut();
        match operation {
            OperationType::Reject => unhandled.push(promise),
            OperationType::Handle => unhandled.retain(|known| !JsObject::equals(known, &promise)),
        }
    }

    fn local_timezone_offset_seconds(&self, _unix_time_seconds: i64) -> i32 {
        0
    }
}

impl Hooks {
    /// The reason of the first unhandled rejection, if there is one. All are forgotten.
    pub fn take_rejection(&self) -> Option<JsValue> {
        let first = self.unhandled.take().into_iter().next()?;
        let promise = JsPromise::from_object(first).ok()?;
        promise.state().as_rejected().cloned()
    }

    /// Forgets what is left: an execution answers for its own promises only.
    pub fn clear(&self) {
        self.unhandled.take();
    }
}
