//! The event loop of one execution: microtasks, then one timer, then again.

use std::time::Duration;

use anchorhold_javascript_shared::output;
use rquickjs::{Ctx, Promise, Value, promise::PromiseState};

use crate::{ending::Ending, prelude::Kernel, rejections, stack};

/// Longest sleep without a look at the stop request. The host cannot wake a sleeping guest.
const SLEEP_SLICE: Duration = Duration::from_millis(10);

type Outcome<'js, T> = std::result::Result<T, Ending<'js>>;

/// Runs until `main` is settled and nothing is pending. `None`: nothing can ever settle it.
pub fn run<'js>(
    ctx: &Ctx<'js>,
    kernel: &Kernel<'js>,
    main: &Promise<'js>,
) -> Outcome<'js, Option<Value<'js>>> {
    loop {
        microtasks(ctx, kernel)?;
        // A promise's executor may have swallowed the error that carries a stop.
        if let Some(ending) = Ending::requested() {
            return Err(ending);
        }
        if main.state() == PromiseState::Rejected {
            return Err(rejected(ctx, main));
        }
        if let Some(reason) = rejections::take_first(ctx) {
            return Err(reason.map_or_else(|error| Ending::of(ctx, error), Ending::Thrown));
        }
        match kernel.step().map_err(|error| Ending::of(ctx, error))? {
            Step::Ran => {}
            Step::Wait(delay) => sleep(delay)?,
            Step::Idle => return settled(ctx, main),
        }
    }
}

/// What the timers did: ran one callback, have one later, or have none.
pub enum Step {
    Ran,
    Wait(Duration),
    Idle,
}

fn settled<'js>(ctx: &Ctx<'js>, main: &Promise<'js>) -> Outcome<'js, Option<Value<'js>>> {
    main.result().transpose().map_err(|error| Ending::of(ctx, error))
}

fn rejected<'js>(ctx: &Ctx<'js>, main: &Promise<'js>) -> Ending<'js> {
    match main.result::<Value>() {
        Some(Err(error)) => Ending::of(ctx, error),
        Some(Ok(value)) => Ending::Thrown(value),
        None => Ending::Thrown(Value::new_undefined(ctx.clone())),
    }
}

/// `process.nextTick` callbacks go first, as in Node; each round may queue more of either.
fn microtasks<'js>(ctx: &Ctx<'js>, kernel: &Kernel<'js>) -> Outcome<'js, ()> {
    loop {
        let ticked = kernel.run_ticks().map_err(|error| Ending::of(ctx, error))?;
        let ran = drain(ctx)?;
        if !ticked && !ran {
            return Ok(());
        }
    }
}

fn drain<'js>(ctx: &Ctx<'js>) -> Outcome<'js, bool> {
    let mut ran = false;
    while ctx.execute_pending_job() {
        ran = true;
        // An interrupted job leaves no exception behind, only the request that caused it.
        if let Some(ending) = Ending::requested() {
            return Err(ending);
        }
    }
    Ok(ran)
}

fn sleep<'js>(delay: Duration) -> Outcome<'js, ()> {
    output::flush();
    let mut left = delay;
    while !left.is_zero() {
        let slice = left.min(SLEEP_SLICE);
        std::thread::sleep(slice);
        left -= slice;
        if let Some(ending) = Ending::requested() {
            return Err(ending);
        }
    }
    Ok(())
}

/// Empties the job queue of an execution that ended early, so that nothing of it runs in a later one.
///
/// QuickJS has no call for that. With a stack limit under which no function can be entered every job
/// fails at once; its promise is rejected, which may queue a few more jobs that fail in the same way.
pub fn discard(ctx: &Ctx<'_>) {
    stack::forbid_calls(ctx);
    while ctx.execute_pending_job() {}
    stack::set_limit(ctx);
    rejections::clear();
}
