//! ES modules: `import()` of workspace files and of the built-in modules. What a name means is decided in
//! `modules.js`; this is only the shape that Boa wants.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;

use boa_engine::module::{ModuleLoader, ModuleRequest, Referrer};
use boa_engine::object::JsObject;
use boa_engine::{Context, JsNativeError, JsResult, Module, Source};

use crate::kernel::Kernel;

/// Every module of the session by its name.
#[derive(Default)]
pub struct Modules {
    kernel: OnceCell<Kernel>,
    known: RefCell<HashMap<String, Known>>,
}

struct Known {
    module: Module,
    meta: JsObject,
}

impl Modules {
    /// Who resolves and loads. It comes later, because it is made in the context that this belongs to.
    pub fn set_kernel(&self, kernel: Kernel) {
        // Only called once.
        let _ = self.kernel.set(kernel);
    }

    fn load(&self, referrer: &Referrer, request: &ModuleRequest, context: &mut Context) -> JsResult<Module> {
        let kernel = self.kernel.get().ok_or_else(|| JsNativeError::error().with_message("not yet"))?;
        let base = referrer.path().and_then(Path::to_str).unwrap_or_default();
        let name = kernel.resolve(base, request.specifier().clone(), context)?;
        if let Some(known) = self.known.borrow().get(&name) {
            return Ok(known.module.clone());
        }
        let loaded = kernel.load(&name, context)?;
        let source = Source::from_bytes(&loaded.source).with_path(Path::new(&name));
        let module = Module::parse(source, None, context)?;
        self.known.borrow_mut().insert(name, Known { module: module.clone(), meta: loaded.meta });
        Ok(module)
    }

    fn fill(&self, import_meta: &JsObject, module: &Module, context: &mut Context) -> JsResult<()> {
        let name = module.path().and_then(Path::to_str).unwrap_or_default();
        let Some(meta) = self.known.borrow().get(name).map(|known| known.meta.clone()) else {
            return Ok(());
        };
        for key in meta.own_property_keys(context)? {
            let value = meta.get(key.clone(), context)?;
            import_meta.create_data_property_or_throw(key, value, context)?;
        }
        Ok(())
    }
}

impl ModuleLoader for Modules {
    async fn load_imported_module(
        self: Rc<Self>,
        referrer: Referrer,
        request: ModuleRequest,
        context: &RefCell<&mut Context>,
    ) -> JsResult<Module> {
        self.load(&referrer, &request, &mut context.borrow_mut())
    }

    fn init_import_meta(self: Rc<Self>, import_meta: &JsObject, module: &Module, context: &mut Context) {
        // Data properties of a new object: nothing can refuse them.
        self.fill(import_meta, module, context).ok();
    }
}
