//! What a value is, told by the engine: nothing of the program runs and nothing can pretend.

use std::any::TypeId;
use std::cell::RefCell;

use boa_engine::builtins::promise::PromiseState;
use boa_engine::builtins::proxy::Proxy;
use boa_engine::builtins::typed_array::TypedArrayKind;
use boa_engine::native_function::NativeFunctionPointer;
use boa_engine::object::JsObject;
use boa_engine::object::builtins::{JsArray, JsPromise, JsTypedArray};
use boa_engine::{Context, JsArgs, JsResult, JsString, JsValue};

pub const FUNCTIONS: [(&str, NativeFunctionPointer); 3] =
    [("classId", class_id), ("proxyTarget", proxy_target), ("promiseState", promise_state)];

/// What tells classes apart: the engine's data, and what a typed array is of.
type Class = (TypeId, Option<TypedArrayKind>);

thread_local! {
    /// Classes by their numbers, less one.
    static CLASSES: RefCell<Vec<Class>> = const { RefCell::new(Vec::new()) };
}

/// The number of an object's class, the same for all `Map`s, say. 0 for what is not an object.
fn class_id(_: &JsValue, arguments: &[JsValue], _: &mut Context) -> JsResult<JsValue> {
    let Some(object) = arguments.get_or_undefined(0).as_object() else {
        return Ok(0.into());
    };
    let class = (object.data_type(), JsTypedArray::from_object(object).ok().and_then(|array| array.kind()));
    let index = CLASSES.with_borrow_mut(|classes| {
        classes.iter().position(|known| *known == class).unwrap_or_else(|| {
            classes.push(class);
            classes.len() - 1
        })
    });
    Ok(JsValue::from(index as u32 + 1))
}

/// What a proxy stands for, or undefined.
fn proxy_target(_: &JsValue, arguments: &[JsValue], _: &mut Context) -> JsResult<JsValue> {
    let object = arguments.get_or_undefined(0).as_object();
    let proxy = object.as_ref().and_then(JsObject::downcast_ref::<Proxy>);
    let Some(proxy) = proxy else {
        return Ok(JsValue::undefined());
    };
    let (target, _) = proxy.try_data()?;
    Ok(target.into())
}

/// `["pending"]`, `["fulfilled", value]` or `["rejected", reason]`; undefined for what is no promise.
fn promise_state(_: &JsValue, arguments: &[JsValue], context: &mut Context) -> JsResult<JsValue> {
    let promise = arguments.get_or_undefined(0).as_object().and_then(|it| JsPromise::from_object(it).ok());
    let Some(promise) = promise else {
        return Ok(JsValue::undefined());
    };
    let (name, settled) = match promise.state() {
        PromiseState::Pending => ("pending", None),
        PromiseState::Fulfilled(value) => ("fulfilled", Some(value)),
        PromiseState::Rejected(reason) => ("rejected", Some(reason)),
    };
    let state = JsArray::new(context)?;
    state.push(JsString::from(name), context)?;
    if let Some(settled) = settled {
        state.push(settled, context)?;
    }
    Ok(state.into())
}
