//! The interpreter of a session and the course of one execution.

use std::path::Path;
use std::rc::Rc;

use anchorhold_javascript_shared::abi::{self, Kind};
use anchorhold_javascript_shared::prelude::WARM_UP;
use anchorhold_javascript_shared::{clock, imports, output, random, stop};
use boa_engine::object::builtins::JsPromise;
use boa_engine::vm::RuntimeLimits;
use boa_engine::vm::interrupt;
use boa_engine::{Context, JsResult, JsValue, Script, Source};
use serde_json::Value as Json;

use crate::dom_exception::DomException;
use crate::ending::{self, Ending};
use crate::hooks::Hooks;
use crate::host;
use crate::jobs::{Loop, Queue};
use crate::kernel::{Kernel, object};
use crate::modules::Modules;

/// How deep functions may call each other. Calls by way of built-in functions end earlier, by the native stack.
const CALLS_MAX: usize = 12_000;
/// Values in all registers of those calls.
const STACK_VALUES_MAX: usize = 1_000_000;
/// How many calls a stack names.
const STACK_LINES: usize = 10;

/// For a thrown value whose description itself fails.
const UNDESCRIBABLE: &str =
    r#"{"name":"Error","message":"the program failed, and its error cannot be described","traceback":""}"#;

pub struct Interpreter {
    context: Context,
    kernel: Kernel,
    queue: Rc<Queue>,
    hooks: Rc<Hooks>,
    executions: u32,
}

impl Interpreter {
    pub fn new() -> JsResult<Self> {
        interrupt::set_hook(output::flush);
        let (queue, hooks) = (Rc::new(Queue::default()), Rc::new(Hooks::default()));
        let modules = Rc::new(Modules::default());
        let mut context = Context::builder()
            .job_executor(queue.clone())
            .host_hooks(hooks.clone())
            .module_loader(modules.clone())
            .build()?;
        context.set_runtime_limits(limits());
        DomException::register(&mut context)?;
        let host = host::object(&mut context)?;
        let kernel = Kernel::new(host, &mut context)?;
        modules.set_kernel(kernel.clone());
        let mut interpreter = Self { context, kernel, queue, hooks, executions: 0 };
        interpreter.warm_up()?;
        boa_gc::force_collect();
        Ok(interpreter)
    }

    fn warm_up(&mut self) -> JsResult<()> {
        if let Err(Ending::Thrown(value)) = self.run("warm-up", WARM_UP) {
            return Err(boa_engine::JsError::from_opaque(value));
        }
        self.kernel.end(&mut self.context).map(drop)
    }

    /// Once per session: the snapshot's random numbers and environment become the session's own.
    pub fn start(&mut self, argument: &[u8]) {
        if self.try_start(argument).is_none() {
            abi::trap("start was given something else than a seed and an environment");
        }
    }

    fn try_start(&mut self, argument: &[u8]) -> Option<()> {
        let argument: Json = serde_json::from_slice(argument).ok()?;
        clock::restart();
        random::seed(argument["seed"].as_str()?)?;
        let env = JsValue::from_json(&argument["env"], &mut self.context).ok()?;
        self.kernel.start(env, &mut self.context).ok()
    }

    /// Runs one execution and reports it. `true` if it succeeded.
    pub fn execute(&mut self, argument: &[u8]) -> bool {
        self.executions += 1;
        let name = format!("<execution {}>", self.executions);
        ending::take_request();
        let request = serde_json::from_slice::<Json>(argument);
        let Some((request, code)) = request.as_ref().ok().and_then(|it| Some((it, it["code"].as_str()?)))
        else {
            abi::trap("execute was given something else than a program");
        };
        let ended = match self.begin(request) {
            Ok(()) => self.run(&name, &imports::rewrite(code.to_owned())),
            Err(error) => Err(Ending::of(error, &mut self.context)),
        };
        self.finish(ended)
    }

    fn begin(&mut self, request: &Json) -> JsResult<()> {
        let env = JsValue::from_json(&request["env"], &mut self.context)?;
        let cwd = JsValue::from_json(&request["cwd"], &mut self.context)?;
        self.kernel.begin(env, cwd, &mut self.context)
    }

    /// Runs a program to its end. Its value, if there is one to show, comes back as an emitted result.
    fn run(&mut self, name: &str, source: &str) -> Result<Option<String>, Ending> {
        let value = match self.evaluate(name, source) {
            Ok(value) => value,
            Err(error) => return Err(Ending::of(error, &mut self.context)),
        };
        let value = match value {
            Value::Of(value) => {
                self.event_loop().run(None)?;
                value
            }
            Value::Awaited(promise) => match self.event_loop().run(Some(&promise))? {
                Some(value) => value,
                None => return Err(self.never_settles()),
            },
        };
        let value = self.awaited(value)?;
        self.kernel.render(value, &mut self.context).map_err(|error| Ending::of(error, &mut self.context))
    }

    fn evaluate(&mut self, name: &str, source: &str) -> JsResult<Value> {
        let source = Source::from_bytes(source).with_path(Path::new(name));
        let script = Script::parse(source, None, &mut self.context)?;
        let value = script.evaluate(&mut self.context)?;
        if script.has_tla() {
            return Ok(Value::Awaited(JsPromise::from_object(object(&value)?)?));
        }
        Ok(Value::Of(value))
    }

    fn event_loop(&mut self) -> Loop<'_> {
        Loop { context: &mut self.context, kernel: &self.kernel, queue: &self.queue, hooks: &self.hooks }
    }

    /// A promise as the last value stands for what it resolves to; one that never settles stands for itself.
    fn awaited(&mut self, value: JsValue) -> Result<JsValue, Ending> {
        let promise = value.as_object().and_then(|object| JsPromise::from_object(object).ok());
        match promise {
            Some(promise) => Ok(self.event_loop().run(Some(&promise))?.unwrap_or(value)),
            None => Ok(value),
        }
    }

    fn never_settles(&mut self) -> Ending {
        match self.kernel.never_settles(&mut self.context) {
            Ok(error) => Ending::Thrown(error),
            Err(error) => Ending::of(error, &mut self.context),
        }
    }

    /// Reports how an execution ended and clears what it left behind. `true` if it succeeded.
    fn finish(&mut self, ended: Result<Option<String>, Ending>) -> bool {
        let exit_code = match ended {
            Ok(result) => {
                if let Some(result) = result {
                    abi::emit(Kind::Result, &result);
                }
                self.end()
            }
            Err(Ending::Stopped(stop::Reason::Exit(code), _)) => {
                self.end();
                Some(code)
            }
            Err(ending) => {
                let described = self.describe(ending);
                abi::emit(Kind::Error, &described);
                self.end();
                return false;
            }
        };
        if let Some(code) = exit_code {
            abi::emit(Kind::ExitCode, &code.to_string());
        }
        exit_code.unwrap_or(0) == 0
    }

    /// Drops timers and jobs and restores the environment. The program's own exit code, if it set one.
    fn end(&mut self) -> Option<i32> {
        self.queue.clear();
        self.hooks.clear();
        let exit_code = self.kernel.end(&mut self.context);
        ending::take_request();
        exit_code.ok().flatten()
    }

    fn describe(&mut self, ending: Ending) -> String {
        let context = &mut self.context;
        let described = match ending {
            Ending::Thrown(value) => self.kernel.describe(value, context),
            Ending::Stopped(stop::Reason::Timeout, stack) => {
                self.kernel.describe_stop("TimeoutError", "the execution ran out of time", stack, context)
            }
            Ending::Stopped(_, stack) => {
                self.kernel.describe_stop("CancelledError", "the execution was cancelled", stack, context)
            }
        };
        described.unwrap_or_else(|_| UNDESCRIBABLE.to_owned())
    }
}

/// What a script evaluates to: its value, or a promise of it if it awaits something.
enum Value {
    Of(JsValue),
    Awaited(JsPromise),
}

fn limits() -> RuntimeLimits {
    let mut limits = RuntimeLimits::default();
    limits.set_recursion_limit(CALLS_MAX);
    limits.set_stack_size_limit(STACK_VALUES_MAX);
    limits.set_backtrace_limit(STACK_LINES);
    limits
}
