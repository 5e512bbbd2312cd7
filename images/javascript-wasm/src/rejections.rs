//! Promises that were rejected and that nobody handles.
//!
//! A rejection counts when the microtasks have run and still nobody took it, as in Node.

use std::cell::RefCell;

use rquickjs::{Ctx, Persistent, Result, Runtime, Value};

struct Rejection {
    promise: Persistent<Value<'static>>,
    reason: Persistent<Value<'static>>,
}

thread_local! {
    static UNHANDLED: RefCell<Vec<Rejection>> = const { RefCell::new(Vec::new()) };
}

pub fn track(runtime: &Runtime) {
    runtime.set_host_promise_rejection_tracker(Some(Box::new(|ctx, promise, reason, is_handled| {
        if is_handled {
            forget(&ctx, &promise);
        } else {
            remember(&ctx, promise, reason);
        }
    })));
}

fn remember<'js>(ctx: &Ctx<'js>, promise: Value<'js>, reason: Value<'js>) {
    let rejection =
        Rejection { promise: Persistent::save(ctx, promise), reason: Persistent::save(ctx, reason) };
    UNHANDLED.with_borrow_mut(|unhandled| unhandled.push(rejection));
}

fn forget<'js>(ctx: &Ctx<'js>, promise: &Value<'js>) {
    UNHANDLED.with_borrow_mut(|unhandled| {
        unhandled.retain(
            |rejection| !matches!(rejection.promise.clone().restore(ctx), Ok(known) if known == *promise),
        );
    });
}

/// The reason of the first unhandled rejection, if there is one. All are forgotten.
pub fn take_first<'js>(ctx: &Ctx<'js>) -> Option<Result<Value<'js>>> {
    let unhandled = UNHANDLED.take();
    let first = unhandled.into_iter().next()?;
    Some(first.reason.restore(ctx))
}

/// Forgets what is left: an execution answers for its own promises only.
pub fn clear() {
    UNHANDLED.take();
}
