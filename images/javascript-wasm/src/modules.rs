//! ES modules: `import()` of workspace files and of the built-in modules. What a name means is decided in
//! `modules.js`; this is only the shape that QuickJS wants.

use rquickjs::loader::{ImportAttributes, Loader, Resolver};
use rquickjs::module::Declared;
use rquickjs::{Ctx, FromJs, Module, Object, Result, Value};

use crate::host::Text;
use crate::prelude::Kernel;

pub struct Modules;

/// A module's source and what its `import.meta` holds.
pub struct Loaded<'js> {
    source: Text,
    meta: Object<'js>,
}

impl<'js> FromJs<'js> for Loaded<'js> {
    fn from_js(ctx: &Ctx<'js>, value: Value<'js>) -> Result<Self> {
        let object = Object::from_js(ctx, value)?;
        Ok(Self { source: object.get("source")?, meta: object.get("meta")? })
    }
}

impl Resolver for Modules {
    fn resolve<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        base: &str,
        name: &str,
        _attributes: Option<ImportAttributes<'js>>,
    ) -> Result<String> {
        Ok(Kernel::of(ctx)?.resolve(base, name)?.0)
    }
}

impl Loader for Modules {
    fn load<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        name: &str,
        _attributes: Option<ImportAttributes<'js>>,
    ) -> Result<Module<'js, Declared>> {
        let loaded = Kernel::of(ctx)?.load(name)?;
        let module = Module::declare(ctx.clone(), name, loaded.source.0)?;
        let meta = module.meta()?;
        for property in loaded.meta.props::<String, Value>() {
            let (key, value) = property?;
            meta.set(key, value)?;
        }
        Ok(module)
    }
}
