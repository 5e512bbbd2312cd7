//! How an execution ends when it does not simply finish.

use anchorhold_javascript_shared::stop;
use rquickjs::{Ctx, Error, Exception, Value};

pub enum Ending<'js> {
    /// An uncaught value, an `Error` or not.
    Thrown(Value<'js>),
    /// The host asked for it. The value says where the program was, if it is known.
    Stopped(stop::Reason, Option<Value<'js>>),
}

impl<'js> Ending<'js> {
    /// Turns a failed call into JavaScript into an ending. A stop hides whatever was thrown on the way out.
    pub fn of(ctx: &Ctx<'js>, error: Error) -> Self {
        match error {
            Error::Exception => {}
            Error::InvalidString(_) => drop(Exception::throw_syntax(ctx, "the source holds a NUL character")),
            other => drop(Exception::throw_message(ctx, &other.to_string())),
        }
        let thrown = ctx.catch();
        match stop::take() {
            Some(reason) => Self::Stopped(reason, Some(thrown)),
            None => Self::Thrown(thrown),
        }
    }

    /// The ending that a pending stop request asks for.
    pub fn requested() -> Option<Self> {
        stop::take().map(|reason| Self::Stopped(reason, None))
    }
}
