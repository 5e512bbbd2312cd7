//! The interpreter of a session and the course of one execution.

use anchorhold_javascript_shared::abi::{self, Kind};
use anchorhold_javascript_shared::prelude::WARM_UP;
use anchorhold_javascript_shared::{imports, output, stop};
use rquickjs::{Context, Ctx, Error, Object, Persistent, Result, Runtime, Value};

use crate::ending::Ending;
use crate::host::{self, Text};
use crate::modules::Modules;
use crate::prelude::{self, Kernel};
use crate::scope::{self, Scope};
use crate::{jobs, rejections, stack};

/// How much may be allocated before the first garbage collection; later ones follow the size of the heap.
const FIRST_COLLECTION_BYTES: usize = 16 * 1024 * 1024;

/// For a thrown value whose description itself fails, say for want of memory.
const UNDESCRIBABLE: &str =
    r#"{"name":"Error","message":"the program failed, and its error cannot be described","traceback":""}"#;

pub struct Interpreter {
    context: Context,
    scope: Scope,
    executions: u32,
}

type Outcome<'js, T> = std::result::Result<T, Ending<'js>>;

impl Interpreter {
    pub fn new() -> std::result::Result<Self, String> {
        let runtime = Runtime::new().map_err(|error| error.to_string())?;
        runtime.set_loader(Modules, Modules);
        runtime.set_interrupt_handler(Some(Box::new(|| {
            output::flush();
            stop::requested()
        })));
        rejections::track(&runtime);
        let context = Context::full(&runtime).map_err(|error| error.to_string())?;
        context.with(|ctx| {
            stack::set_limit(&ctx);
            let evaluated = host::object(&ctx).and_then(|host| prelude::evaluate(&ctx, host));
            evaluated.and_then(|()| warm_up(&ctx)).map_err(|error| explain(&ctx, error))
        })?;
        let scope = Scope::new(&runtime, &context)?;
        // A collection marks every object, and so would copy every page of the snapshot into the session. Most
        // sessions never make this much garbage.
        runtime.run_gc();
        runtime.set_gc_threshold(FIRST_COLLECTION_BYTES);
        Ok(Self { context, scope, executions: 0 })
    }

    /// Once per session: the snapshot's random numbers and environment become the session's own.
    pub fn start(&mut self, argument: &[u8]) {
        let started = self.context.with(|ctx| -> Result<()> {
            let argument = Object::from_value(ctx.json_parse(argument)?)?;
            let seed: Text = argument.get("seed")?;
            host::start(&seed.0).ok_or(Error::Unknown)?;
            Kernel::of(&ctx)?.start(argument.get("env")?)
        });
        if started.is_err() {
            abi::trap("start was given something else than a seed and an environment");
        }
    }

    /// Runs one execution and reports it. `true` if it succeeded.
    pub fn execute(&mut self, argument: &[u8]) -> bool {
        self.executions += 1;
        let name = format!("<execution {}>", self.executions);
        stop::take();
        let Ok((source, request)) = self.context.with(|ctx| read_request(&ctx, argument)) else {
            abi::trap("execute was given something else than a program");
        };
        let source = imports::rewrite(source);
        let room = self.scope.make_room(&self.context, &source);
        self.context.with(|ctx| {
            let ended = match room.and_then(|()| begin(&ctx, request)) {
                Ok(()) => run(&ctx, &name, source),
                Err(error) => Err(Ending::of(&ctx, error)),
            };
            finish(&ctx, ended)
        })
    }
}

fn warm_up(ctx: &Ctx<'_>) -> Result<()> {
    match run(ctx, "warm-up", WARM_UP.to_owned()) {
        Ok(_) => Kernel::of(ctx)?.end().map(drop),
        Err(Ending::Thrown(value)) => Err(ctx.throw(value)),
        Err(Ending::Stopped(..)) => Err(Error::Unknown),
    }
}

fn explain(ctx: &Ctx<'_>, error: Error) -> String {
    rquickjs::CaughtError::from_error(ctx, error).to_string()
}

/// The program, and the request with its environment and working directory.
fn read_request(ctx: &Ctx<'_>, argument: &[u8]) -> Result<(String, Persistent<Object<'static>>)> {
    stack::set_limit(ctx);
    let request = Object::from_value(ctx.json_parse(argument)?)?;
    let code: Text = request.get("code")?;
    Ok((code.0, Persistent::save(ctx, request)))
}

fn begin(ctx: &Ctx<'_>, request: Persistent<Object<'static>>) -> Result<()> {
    let request = request.restore(ctx)?;
    Kernel::of(ctx)?.begin(request.get("env")?, request.get("cwd")?)
}

/// Runs a program to its end. Its value, if there is one to show, comes back as an emitted result.
fn run<'js>(ctx: &Ctx<'js>, name: &str, source: String) -> Outcome<'js, Option<Text>> {
    let failed = |error| Ending::of(ctx, error);
    let kernel = Kernel::of(ctx).map_err(failed)?;
    let main = scope::evaluate(ctx, name, source).map_err(failed)?;
    let Some(completion) = jobs::run(ctx, &kernel, &main)? else {
        return Err(kernel.never_settles().map_or_else(failed, Ending::Thrown));
    };
    let completion = Object::from_value(completion).map_err(failed)?;
    let value = awaited(ctx, &kernel, completion.get("value").map_err(failed)?)?;
    kernel.render(value).map_err(failed)
}

/// A promise as the last value stands for what it resolves to; one that never settles stands for itself.
fn awaited<'js>(ctx: &Ctx<'js>, kernel: &Kernel<'js>, value: Value<'js>) -> Outcome<'js, Value<'js>> {
    match value.as_promise() {
        Some(promise) => Ok(jobs::run(ctx, kernel, promise)?.unwrap_or(value)),
        None => Ok(value),
    }
}

/// Reports how an execution ended and clears what it left behind. `true` if it succeeded.
fn finish<'js>(ctx: &Ctx<'js>, ended: Outcome<'js, Option<Text>>) -> bool {
    let exit_code = match ended {
        Ok(result) => {
            if let Some(result) = result {
                abi::emit(Kind::Result, &result.0);
            }
            end(ctx)
        }
        Err(Ending::Stopped(stop::Reason::Exit(code), _)) => {
            jobs::discard(ctx);
            end(ctx);
            Some(code)
        }
        Err(ending) => {
            abi::emit(Kind::Error, &describe(ctx, ending));
            jobs::discard(ctx);
            end(ctx);
            return false;
        }
    };
    if let Some(code) = exit_code {
        abi::emit(Kind::ExitCode, &code.to_string());
    }
    exit_code.unwrap_or(0) == 0
}

/// Drops timers and restores the environment. The program's own exit code, if it set one.
fn end(ctx: &Ctx<'_>) -> Option<i32> {
    let exit_code = Kernel::of(ctx).and_then(|kernel| kernel.end());
    stop::take();
    exit_code.ok().flatten()
}

fn describe<'js>(ctx: &Ctx<'js>, ending: Ending<'js>) -> String {
    let described = Kernel::of(ctx).and_then(|kernel| match ending {
        Ending::Thrown(value) => kernel.describe(value),
        Ending::Stopped(stop::Reason::Timeout, place) => {
            kernel.describe_stop("TimeoutError", "the execution ran out of time", place)
        }
        Ending::Stopped(_, place) => {
            kernel.describe_stop("CancelledError", "the execution was cancelled", place)
        }
    });
    described.map_or_else(
        |_| {
            ctx.catch();
            UNDESCRIBABLE.to_owned()
        },
        |text| text.0,
    )
}
