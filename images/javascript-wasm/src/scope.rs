//! Top-level `let`, `const` and `class` that may be declared again by a later execution, as in a notebook.
//!
//! QuickJS evaluates an execution as a global script, so its declarations stay visible, a `const` stays
//! constant and every rule of the language holds. Only one rule is wrong for a notebook: declaring a name
//! again is a `SyntaxError`. So the bindings that an execution is about to declare again are removed first.
//!
//! Which names those are, the engine's own parser says: the program is evaluated in a second, empty realm,
//! behind a `throw` on a line of its own. A script declares its names before it runs its first statement, so
//! afterwards that realm holds exactly the declared names and nothing of the program has run. Functions of
//! earlier executions look globals up by name, so they see the new binding.

use std::ptr::NonNull;

use rquickjs::context::{EvalOptions, intrinsic};
use rquickjs::{Context, Ctx, Object, Persistent, Promise, Result, Runtime, Value, qjs};

use crate::rejections;

/// Words that every declaration contains. They cannot be spelt with escapes, so this only saves work.
const DECLARING_WORDS: [&str; 5] = ["const", "let", "class", "function", "var"];

/// How many words of `JSContext` are searched for the global object.
const CONTEXT_WORDS: usize = 64;

pub struct Scope {
    bindings: Bindings,
    probe: Context,
    probe_bindings: Bindings,
}

impl Scope {
    pub fn new(runtime: &Runtime, context: &Context) -> std::result::Result<Self, String> {
        let probe =
            Context::custom::<(intrinsic::Eval, intrinsic::Promise)>(runtime).map_err(|e| e.to_string())?;
        let bindings = context.with(|ctx| Bindings::find(&ctx))?;
        let probe_bindings = probe.with(|ctx| {
            remove_all(&ctx.globals()).map_err(|e| e.to_string())?;
            Bindings::find(&ctx)
        })?;
        Ok(Self { bindings, probe, probe_bindings })
    }

    /// Removes the bindings of earlier executions that `source` declares again.
    pub fn make_room(&self, context: &Context, source: &str) -> Result<()> {
        let existing = context.with(|ctx| self.bindings.names(&ctx))?;
        if existing.is_empty() || !DECLARING_WORDS.iter().any(|word| source.contains(word)) {
            return Ok(());
        }
        let declared = self.probe.with(|ctx| self.declared_again(&ctx, &existing, source))?;
        context.with(|ctx| self.bindings.remove(&ctx, &declared))
    }

    fn declared_again<'js>(&self, ctx: &Ctx<'js>, existing: &[String], source: &str) -> Result<Vec<String>> {
        // A program that does not parse declares nothing; its own evaluation reports the error.
        if evaluate(ctx, "probe", format!("throw 0;\n{source}")).is_err() {
            ctx.catch();
        }
        // The probe's own `throw` is nobody's failure.
        rejections::clear();
        let lexical = self.probe_bindings.object(ctx)?;
        let global = ctx.globals();
        let mut declared = Vec::new();
        for name in existing {
            if lexical.contains_key(name)? || global.contains_key(name)? {
                declared.push(name.clone());
            }
        }
        remove_all(&lexical)?;
        Ok(declared)
    }
}

/// Evaluates a global script with top-level `await`. The promise resolves to `{ value }`.
pub fn evaluate<'js>(ctx: &Ctx<'js>, name: &str, source: String) -> Result<Promise<'js>> {
    let mut options = EvalOptions::default();
    options.strict = false;
    options.promise = true;
    options.filename = Some(name.to_owned());
    ctx.eval_with_options(source, options)
}

/// The object in which a realm keeps its top-level `let`, `const` and `class`.
struct Bindings(Persistent<Object<'static>>);

impl Bindings {
    /// No function of QuickJS hands this object out; it is the field behind the global object in `JSContext`.
    /// That is checked here by declaring a name, so a change of the layout fails the build of the image.
    fn find(ctx: &Ctx<'_>) -> std::result::Result<Self, String> {
        let wrong = || "top-level bindings are not behind the global object".to_owned();
        let object = behind_global(ctx).ok_or_else(wrong)?;
        let before = object.keys::<String>().count();
        evaluate(ctx, "probe", "let anchorhold_probe".to_owned()).map_err(|e| e.to_string())?;
        let found = before == 0 && object.contains_key("anchorhold_probe").map_err(|e| e.to_string())?;
        remove_all(&object).map_err(|e| e.to_string())?;
        if found { Ok(Self(Persistent::save(ctx, object))) } else { Err(wrong()) }
    }

    fn object<'js>(&self, ctx: &Ctx<'js>) -> Result<Object<'js>> {
        self.0.clone().restore(ctx)
    }

    fn names(&self, ctx: &Ctx<'_>) -> Result<Vec<String>> {
        self.object(ctx)?.keys().collect()
    }

    fn remove(&self, ctx: &Ctx<'_>, names: &[String]) -> Result<()> {
        let object = self.object(ctx)?;
        names.iter().try_for_each(|name| object.remove(name))
    }
}

fn behind_global<'js>(ctx: &Ctx<'js>) -> Option<Object<'js>> {
    let global = ctx.globals().as_value().as_raw();
    let words: NonNull<qjs::JSValue> = ctx.as_raw().cast();
    // SAFETY: `JSContext` begins before and ends after its global object, which the search stops at; it is
    // 8-byte aligned like every value in it, and all of linear memory behind it may be read.
    let found = (0..CONTEXT_WORDS).find(|&i| same_object(unsafe { words.add(i).read() }, global))?;
    // SAFETY: the next field is a `JSValue` too, and holds an object as long as the context lives; the
    // reference that is handed out is counted.
    let value = unsafe {
        let raw = words.add(found + 1).read();
        Value::from_raw(ctx.clone(), qjs::JS_DupValue(ctx.as_raw().as_ptr(), raw))
    };
    value.into_object()
}

fn same_object(a: qjs::JSValue, b: qjs::JSValue) -> bool {
    // SAFETY: both calls only take a value apart; neither follows the pointer.
    unsafe {
        qjs::JS_VALUE_GET_TAG(a) == qjs::JS_TAG_OBJECT && qjs::JS_VALUE_GET_PTR(a) == qjs::JS_VALUE_GET_PTR(b)
    }
}

/// Removes every property that may be removed.
fn remove_all(object: &Object<'_>) -> Result<()> {
    let names: Vec<String> = object.own_keys(rquickjs::Filter::new().string()).collect::<Result<_>>()?;
    for name in names {
        if object.remove(name).is_err() {
            object.ctx().catch();
        }
    }
    Ok(())
}
