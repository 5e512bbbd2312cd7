//! How an execution ends when it does not simply finish.

use anchorhold_javascript_shared::stop;
use boa_engine::{Context, JsError, JsNativeError, JsValue};

pub enum Ending {
    /// An uncaught value, an `Error` or not.
    Thrown(JsValue),
    /// The host or the program asked for it. The text says where the program was, if it is known.
    Stopped(stop::Reason, Option<String>),
}

impl Ending {
    /// What a failed call into JavaScript means. A stop hides whatever was thrown on the way out.
    pub fn of(error: JsError, context: &mut Context) -> Self {
        if let Some(reason) = take_request() {
            // The first line names the engine's error, the others the calls.
            let text = error.to_string();
            return Self::Stopped(reason, text.split_once('\n').map(|(_, stack)| stack.to_owned()));
        }
        Self::Thrown(error.into_opaque(context).unwrap_or_else(|engine| {
            let error = JsNativeError::error().with_message(format!("the engine failed: {engine}"));
            error.into_opaque(context).into()
        }))
    }

    /// The ending that a pending stop request asks for.
    pub fn requested() -> Option<Self> {
        take_request().map(|reason| Self::Stopped(reason, None))
    }
}

/// The pending request, which is then forgotten: what runs next is not stopped by it.
pub fn take_request() -> Option<stop::Reason> {
    boa_engine::vm::interrupt::clear();
    stop::take()
}
