//! The prelude of `javascript-shared`, evaluated once, when the image is built; its objects are part of the
//! snapshot. `kernel.js` is what this crate talks to.

use std::cell::RefCell;
use std::time::Duration;

use anchorhold_javascript_shared::prelude::{BOOT, MODULES};
use rquickjs::context::EvalOptions;
use rquickjs::function::IntoArgs;
use rquickjs::{Ctx, FromJs, Function, Object, Persistent, Result, Value};

use crate::host::Text;
use crate::jobs::Step;
use crate::modules::Loaded;

thread_local! {
    static KERNEL: RefCell<Option<Persistent<Object<'static>>>> = const { RefCell::new(None) };
}

/// Evaluates the prelude and keeps its kernel.
pub fn evaluate<'js>(ctx: &Ctx<'js>, host: Object<'js>) -> Result<()> {
    let boot: Function = script(ctx, BOOT.file(), BOOT.source)?;
    let define: Function = boot.call((host,))?;
    let mut last = Value::new_undefined(ctx.clone());
    for module in MODULES {
        let factory: Function = script(ctx, module.file(), &module.wrapped())?;
        last = define.call((module.name, factory))?;
    }
    let kernel = Object::from_js(ctx, last)?;
    KERNEL.set(Some(Persistent::save(ctx, kernel)));
    Ok(())
}

fn script<'js, T: FromJs<'js>>(ctx: &Ctx<'js>, file: String, source: &str) -> Result<T> {
    let mut options = EvalOptions::default();
    options.filename = Some(file);
    ctx.eval_with_options(source, options)
}

/// The functions of `kernel.js`.
pub struct Kernel<'js> {
    object: Object<'js>,
}

impl<'js> Kernel<'js> {
    pub fn of(ctx: &Ctx<'js>) -> Result<Self> {
        let kernel = KERNEL.with_borrow(Clone::clone).ok_or(rquickjs::Error::Unknown)?;
        Ok(Self { object: kernel.restore(ctx)? })
    }

    pub fn start(&self, env: Value<'js>) -> Result<()> {
        self.call("start", (env,))
    }

    /// Before an execution: its own environment and working directory.
    pub fn begin(&self, env: Value<'js>, cwd: Value<'js>) -> Result<()> {
        self.call("begin", (env, cwd))
    }

    /// After an execution: timers are dropped, the environment is restored. Returns `process.exitCode`.
    pub fn end(&self) -> Result<Option<i32>> {
        self.call("end", ())
    }

    /// Runs the `process.nextTick` queue and says whether there was anything in it.
    pub fn run_ticks(&self) -> Result<bool> {
        self.call("runTicks", ())
    }

    /// Runs one timer that is due, or says how long it is until one will be.
    pub fn step(&self) -> Result<Step> {
        let wait_ms: f64 = self.call("step", ())?;
        Ok(match wait_ms {
            ms if ms < 0.0 => Step::Idle,
            0.0 => Step::Ran,
            ms => Step::Wait(Duration::from_micros((ms * 1000.0) as u64)),
        })
    }

    /// The value of the program as an emitted result, unless there is nothing to show.
    pub fn render(&self, value: Value<'js>) -> Result<Option<Text>> {
        self.call("render", (value,))
    }

    /// The error of a program that awaits what nothing can settle.
    pub fn never_settles(&self) -> Result<Value<'js>> {
        self.call("neverSettles", ())
    }

    /// An uncaught value as an emitted error.
    pub fn describe(&self, thrown: Value<'js>) -> Result<Text> {
        self.call("describe", (thrown,))
    }

    /// The error of a program that was stopped from outside, with the stack of the place where it was.
    pub fn describe_stop(&self, name: &str, message: &str, place: Option<Value<'js>>) -> Result<Text> {
        self.call("describeStop", (name, message, place))
    }

    pub fn resolve(&self, base: &str, specifier: &str) -> Result<Text> {
        self.call("resolve", (base, specifier))
    }

    pub fn load(&self, name: &str) -> Result<Loaded<'js>> {
        self.call("load", (name,))
    }

    fn call<A: IntoArgs<'js>, R: FromJs<'js>>(&self, name: &str, args: A) -> Result<R> {
        self.object.get::<_, Function>(name)?.call(args)
    }
}
