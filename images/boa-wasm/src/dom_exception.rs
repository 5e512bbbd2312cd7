//! `DOMException`, which Boa has not: an error with a name of the Web's.

use boa_engine::class::{Class, ClassBuilder};
use boa_engine::object::JsObject;
use boa_engine::property::Attribute;
use boa_engine::{
    Context, Finalize, JsArgs, JsData, JsNativeError, JsResult, JsString, JsValue, NativeFunction, Trace,
};

use crate::kernel::key;

/// Names that once had a code, in the order of the codes; some were dropped.
const CODES: [&str; 25] = [
    "IndexSizeError",
    "",
    "HierarchyRequestError",
    "WrongDocumentError",
    "InvalidCharacterError",
    "",
    "NoModificationAllowedError",
    "NotFoundError",
    "NotSupportedError",
    "InUseAttributeError",
    "InvalidStateError",
    "SyntaxError",
    "InvalidModificationError",
    "NamespaceError",
    "InvalidAccessError",
    "",
    "TypeMismatchError",
    "SecurityError",
    "NetworkError",
    "AbortError",
    "URLMismatchError",
    "QuotaExceededError",
    "TimeoutError",
    "InvalidNodeTypeError",
    "DataCloneError",
];

#[derive(Debug, Trace, Finalize, JsData)]
pub struct DomException {
    message: JsString,
    name: JsString,
}

impl DomException {
    /// Makes the class known to programs, and its instances errors.
    pub fn register(context: &mut Context) -> JsResult<()> {
        context.register_global_class::<Self>()?;
        if let Some(class) = context.get_global_class::<Self>() {
            let errors = context.intrinsics().constructors().error().prototype();
            class.prototype().set_prototype(Some(errors));
        }
        Ok(())
    }

    fn field(this: &JsValue, read: impl FnOnce(&Self) -> JsValue) -> JsResult<JsValue> {
        let object = this.as_object();
        let exception = object.as_ref().and_then(JsObject::downcast_ref::<Self>);
        let exception = exception.ok_or_else(|| JsNativeError::typ().with_message("not a DOMException"))?;
        Ok(read(&exception))
    }

    fn code(&self) -> usize {
        let name = self.name.to_std_string_lossy();
        CODES.iter().position(|known| !known.is_empty() && **known == name).map_or(0, |index| index + 1)
    }
}

impl Class for DomException {
    const NAME: &'static str = "DOMException";
    const ATTRIBUTES: Attribute = Attribute::WRITABLE.union(Attribute::CONFIGURABLE);

    fn init(class: &mut ClassBuilder<'_>) -> JsResult<()> {
        let getters: [(&str, NativeFunction); 3] = [
            (
                "name",
                NativeFunction::from_fn_ptr(|this, _, _| Self::field(this, |it| it.name.clone().into())),
            ),
            (
                "message",
                NativeFunction::from_fn_ptr(|this, _, _| Self::field(this, |it| it.message.clone().into())),
            ),
            (
                "code",
                NativeFunction::from_fn_ptr(|this, _, _| {
                    Self::field(this, |it| JsValue::from(it.code() as u32))
                }),
            ),
        ];
        for (name, getter) in getters {
            let getter = getter.to_js_function(class.context().realm());
            class.accessor(key(name), Some(getter), None, Attribute::ENUMERABLE | Attribute::CONFIGURABLE);
        }
        Ok(())
    }

    fn data_constructor(_target: &JsValue, arguments: &[JsValue], context: &mut Context) -> JsResult<Self> {
        let mut text = |index, otherwise: &str| match arguments.get_or_undefined(index) {
            value if value.is_undefined() => Ok(JsString::from(otherwise)),
            value => value.to_string(context),
        };
        let (message, name) = (text(0, "")?, text(1, "Error")?);
        Ok(Self { message, name })
    }
}
