//! What goes to the host: results, errors and exit codes.

use rustpython_vm::{AsObject, PyObject, PyResult, VirtualMachine, builtins::PyBaseExceptionRef};
use serde_json::json;

/// The most that one result may hold, as JSON. Larger ones would fill the host's answer.
pub const RESULT_MAX_BYTES: usize = 1 << 20;
/// The most of a traceback that is kept: its end, where the error is.
const TRACEBACK_MAX_BYTES: usize = 64 << 10;
const MESSAGE_MAX_BYTES: usize = 16 << 10;

/// One call of `anchorhold.emit`.
pub struct Emission {
    kind: i32,
    text: String,
}

impl Emission {
    /// A result: `mime` is a JSON object of mime types.
    pub fn result(main: bool, mime: &str) -> Self {
        Self { kind: 0, text: format!("{{\"main\":{main},\"mime\":{mime}}}") }
    }

    /// The result of an expression whose value has nothing but a `repr`.
    pub fn plain_result(repr: &str) -> Self {
        Self::result(true, &json!({ "text/plain": repr }).to_string())
    }

    /// The error that ended the program.
    pub fn error(name: &str, message: &str, traceback: &str) -> Self {
        let message = head(message, MESSAGE_MAX_BYTES);
        let traceback = tail(traceback, TRACEBACK_MAX_BYTES);
        Self {
            kind: 1,
            text: json!({ "name": name, "message": message, "traceback": traceback }).to_string(),
        }
    }

    pub fn exit_code(code: i32) -> Self {
        Self { kind: 2, text: code.to_string() }
    }

    pub fn kind(&self) -> i32 {
        self.kind
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Refuse what is too large to be a result, and say what to do instead.
pub fn check_size(text: &str, vm: &VirtualMachine) -> PyResult<()> {
    if text.len() <= RESULT_MAX_BYTES {
        return Ok(());
    }
    Err(vm.new_value_error(format!(
        "the result holds {} bytes, more than the cap of 1 MiB ({RESULT_MAX_BYTES} bytes) for one result: \
         show a part of it, or write it to a file in /workspace",
        text.len()
    )))
}

/// Whether a value is of a builtin type that has no rich representation, so that looking for one
/// can be skipped. Most results are.
pub fn is_plain(value: &PyObject, vm: &VirtualMachine) -> bool {
    let types = &vm.ctx.types;
    let class = value.class();
    [
        types.int_type,
        types.str_type,
        types.float_type,
        types.bool_type,
        types.list_type,
        types.dict_type,
        types.tuple_type,
    ]
    .into_iter()
    .any(|plain| class.is(plain))
}

/// The code of a `SystemExit`: what CPython's process would end with, and the text it would print.
pub fn exit_code(exception: &PyBaseExceptionRef, vm: &VirtualMachine) -> (i32, Option<String>) {
    let Ok(code) = exception.as_object().get_attr("code", vm) else { return (1, None) };
    if vm.is_none(&code) {
        return (0, None);
    }
    if let Ok(number) = code.try_to_value::<i64>(vm) {
        // A process's exit code has eight bits.
        return ((number & 0xff) as i32, None);
    }
    let text = code
        .str(vm)
        .map_or_else(|_| "<unprintable exit code>".to_owned(), |s| s.to_string_lossy().into_owned());
    (1, Some(text))
}

fn head(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

fn tail(text: &str, max: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(max))..]
}
