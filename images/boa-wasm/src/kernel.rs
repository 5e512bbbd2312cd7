//! The prelude of `javascript-shared`, evaluated once, when the image is built; its objects are part of the
//! snapshot. `kernel.js` is what this crate talks to.

use std::path::Path;
use std::time::Duration;

use anchorhold_javascript_shared::prelude::{BOOT, MODULES};
use boa_engine::object::JsObject;
use boa_engine::property::PropertyKey;
use boa_engine::{Context, JsNativeError, JsResult, JsString, JsValue, Script, Source};

/// The functions of `kernel.js`.
#[derive(Clone)]
pub struct Kernel {
    object: JsObject,
}

/// What the timers did: ran one callback, have one later, or have none.
pub enum Step {
    Ran,
    Wait(Duration),
    Idle,
}

/// A module's source and what its `import.meta` holds.
pub struct Loaded {
    pub source: String,
    pub meta: JsObject,
}

impl Kernel {
    /// Evaluates the prelude.
    pub fn new(host: JsObject, context: &mut Context) -> JsResult<Self> {
        let boot = evaluate(&BOOT.file(), BOOT.source, context)?;
        let define = call(&boot, &[host.into()], context)?;
        let mut last = JsValue::undefined();
        for module in MODULES {
            let factory = evaluate(&module.file(), &module.wrapped(), context)?;
            last = call(&define, &[JsString::from(module.name).into(), factory], context)?;
        }
        Ok(Self { object: object(&last)? })
    }

    /// Once per session. Takes its environment.
    pub fn start(&self, env: JsValue, context: &mut Context) -> JsResult<()> {
        self.call("start", &[env], context).map(drop)
    }

    /// Before an execution: its own environment and working directory.
    pub fn begin(&self, env: JsValue, cwd: JsValue, context: &mut Context) -> JsResult<()> {
        self.call("begin", &[env, cwd], context).map(drop)
    }

    /// After an execution: timers are dropped, the environment is restored. Returns `process.exitCode`.
    pub fn end(&self, context: &mut Context) -> JsResult<Option<i32>> {
        let code = self.call("end", &[], context)?;
        if code.is_undefined() { Ok(None) } else { code.to_i32(context).map(Some) }
    }

    /// Runs the `process.nextTick` queue and says whether there was anything in it.
    pub fn run_ticks(&self, context: &mut Context) -> JsResult<bool> {
        Ok(self.call("runTicks", &[], context)?.to_boolean())
    }

    /// Runs one timer that is due, or says how long it is until one will be.
    pub fn step(&self, context: &mut Context) -> JsResult<Step> {
        let wait_ms = self.call("step", &[], context)?.to_number(context)?;
        Ok(match wait_ms {
            ms if ms < 0.0 => Step::Idle,
            0.0 => Step::Ran,
            ms => Step::Wait(Duration::from_micros((ms * 1000.0) as u64)),
        })
    }

    /// The value of the program as an emitted result, unless there is nothing to show.
    pub fn render(&self, value: JsValue, context: &mut Context) -> JsResult<Option<String>> {
        let rendered = self.call("render", &[value], context)?;
        Ok(rendered.as_string().map(|text| text.to_std_string_lossy()))
    }

    /// The error of a program that awaits what nothing can settle.
    pub fn never_settles(&self, context: &mut Context) -> JsResult<JsValue> {
        self.call("neverSettles", &[], context)
    }

    /// An uncaught value as an emitted error.
    pub fn describe(&self, thrown: JsValue, context: &mut Context) -> JsResult<String> {
        self.text("describe", &[thrown], context)
    }

    /// The error of a program that was stopped from outside, with the stack of the place where it was.
    pub fn describe_stop(
        &self,
        name: &str,
        message: &str,
        stack: Option<String>,
        context: &mut Context,
    ) -> JsResult<String> {
        let place = match stack {
            Some(stack) => {
                let place = JsObject::with_object_proto(context.intrinsics());
                place.set(key("stack"), JsString::from(stack), true, context)?;
                place.into()
            }
            None => JsValue::undefined(),
        };
        self.text(
            "describeStop",
            &[JsString::from(name).into(), JsString::from(message).into(), place],
            context,
        )
    }

    /// The name of the module that `specifier` means in the file `base`.
    pub fn resolve(&self, base: &str, specifier: JsString, context: &mut Context) -> JsResult<String> {
        self.text("resolve", &[JsString::from(base).into(), specifier.into()], context)
    }

    /// The module of that name.
    pub fn load(&self, name: &str, context: &mut Context) -> JsResult<Loaded> {
        let loaded = object(&self.call("load", &[JsString::from(name).into()], context)?)?;
        let source = loaded.get(key("source"), context)?.to_string(context)?;
        let meta = object(&loaded.get(key("meta"), context)?)?;
        Ok(Loaded { source: source.to_std_string_lossy(), meta })
    }

    fn text(&self, name: &str, arguments: &[JsValue], context: &mut Context) -> JsResult<String> {
        let text = self.call(name, arguments, context)?.to_string(context)?;
        Ok(text.to_std_string_lossy())
    }

    fn call(&self, name: &str, arguments: &[JsValue], context: &mut Context) -> JsResult<JsValue> {
        let function = self.object.get(key(name), context)?;
        call(&function, arguments, context)
    }
}

/// Evaluates a script under the name of the file that it comes from.
pub fn evaluate(file: &str, source: &str, context: &mut Context) -> JsResult<JsValue> {
    Script::parse(Source::from_bytes(source).with_path(Path::new(file)), None, context)?.evaluate(context)
}

pub fn key(name: &str) -> PropertyKey {
    JsString::from(name).into()
}

fn call(function: &JsValue, arguments: &[JsValue], context: &mut Context) -> JsResult<JsValue> {
    object(function)?.call(&JsValue::undefined(), arguments, context)
}

pub fn object(value: &JsValue) -> JsResult<JsObject> {
    value.as_object().ok_or_else(|| JsNativeError::typ().with_message("not an object").into())
}
