//! What the prelude can ask of Rust and WASI: one flat object of functions, never visible to programs.

mod files;
mod text;
mod urls;
mod values;

use anchorhold_javascript_shared::abi::{self, Kind};
use anchorhold_javascript_shared::{clock, output, random, stop};
use rquickjs::context::EvalOptions;
use rquickjs::prelude::Func;
use rquickjs::{Ctx, Exception, Function, Object, Result, TypedArray, qjs};

pub use text::Text;

/// The object that every prelude module gets as `host`.
pub fn object<'js>(ctx: &Ctx<'js>) -> Result<Object<'js>> {
    let host = Object::new(ctx.clone())?;
    host.set("writeStdout", Func::from(|text: Text| output::write_stdout(&text.0)))?;
    host.set("writeStderr", Func::from(|text: Text| output::write_stderr(&text.0)))?;
    host.set("emitResult", Func::from(|json: Text| abi::emit(Kind::Result, &json.0)))?;
    host.set("exit", Func::from(exit))?;
    host.set("compileFunction", Func::from(compile_function))?;
    host.set("engine", engine(ctx)?)?;
    host.set("monotonicMs", Func::from(clock::monotonic_ms))?;
    host.set("random", Func::from(random::number))?;
    host.set("randomBytes", Func::from(random_bytes))?;
    files::add(&host)?;
    text::add(&host)?;
    urls::add(&host)?;
    values::add(&host)?;
    Ok(host)
}

/// What `process` says of the engine.
fn engine<'js>(ctx: &Ctx<'js>) -> Result<Object<'js>> {
    let versions = Object::new(ctx.clone())?;
    versions.set("quickjs", "0.16.0")?;
    let engine = Object::new(ctx.clone())?;
    engine.set("name", "quickjs-ng")?;
    engine.set("versions", versions)?;
    Ok(engine)
}

fn random_bytes(ctx: Ctx<'_>, count: usize) -> Result<TypedArray<'_, u8>> {
    TypedArray::new(ctx, random::bytes(count))
}

/// Evaluates a function expression under the name of the file that it comes from.
fn compile_function<'js>(ctx: Ctx<'js>, file: String, source: Text) -> Result<Function<'js>> {
    let mut options = EvalOptions::default();
    options.strict = false;
    options.filename = Some(file);
    ctx.eval_with_options(source.0, options)
}

/// What a snapshot must not share between sessions. `None` if the seed is not one.
pub fn start(seed: &str) -> Option<()> {
    clock::restart();
    random::seed(seed)
}

/// Unwinds the program with an error that no `catch` sees.
fn exit(ctx: Ctx<'_>, code: i32) -> Result<()> {
    stop::request_exit(code);
    let error = Exception::from_message(ctx.clone(), "exit")?.into_object().into_value();
    // SAFETY: the value is alive and is an `Error` object; the call sets a flag in it.
    unsafe { qjs::JS_SetUncatchableError(ctx.as_raw().as_ptr(), error.as_raw()) };
    Err(ctx.throw(error))
}
