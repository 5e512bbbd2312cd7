//! What a value is, told by the engine: nothing of the program runs and nothing can pretend.

use rquickjs::prelude::Func;
use rquickjs::promise::PromiseState;
use rquickjs::{Array, Ctx, Object, Result, Value, qjs};

pub fn add(host: &Object<'_>) -> Result<()> {
    host.set("classId", Func::from(class_id))?;
    host.set("proxyTarget", Func::from(proxy_target))?;
    host.set("promiseState", Func::from(promise_state))
}

/// The number of an object's class, the same for all `Map`s, say. 0 for what is not an object.
fn class_id(value: Value<'_>) -> u32 {
    // SAFETY: the value is alive, and the call only reads its class.
    unsafe { qjs::JS_GetClassID(value.as_raw()) }
}

/// What a proxy stands for, or undefined.
fn proxy_target(value: Value<'_>) -> Result<Option<Object<'_>>> {
    value.as_proxy().map(|proxy| proxy.target()).transpose()
}

/// `["pending"]`, `["fulfilled", value]` or `["rejected", reason]`; undefined for what is no promise.
fn promise_state<'js>(ctx: Ctx<'js>, value: Value<'js>) -> Result<Option<Array<'js>>> {
    let Some(promise) = value.as_promise() else {
        return Ok(None);
    };
    let (name, settled) = match promise.state() {
        PromiseState::Pending => ("pending", None),
        PromiseState::Resolved => ("fulfilled", promise.result::<Value>().transpose()?),
        PromiseState::Rejected => {
            // Asking for the result throws the reason; it is caught at once.
            promise.result::<Value>();
            ("rejected", Some(ctx.catch()))
        }
    };
    let state = Array::new(ctx)?;
    state.set(0, name)?;
    if let Some(settled) = settled {
        state.set(1, settled)?;
    }
    Ok(Some(state))
}
