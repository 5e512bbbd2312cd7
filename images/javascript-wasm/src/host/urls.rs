//! URLs for `url.js`.

use anchorhold_javascript_shared::urls;
use rquickjs::prelude::{Func, Opt};
use rquickjs::{Array, Ctx, Object, Result};

use super::Text;

pub fn add(host: &Object<'_>) -> Result<()> {
    host.set("urlParse", Func::from(parse))?;
    host.set("urlParts", Func::from(parts))?;
    host.set("urlSet", Func::from(set))
}

fn parse(input: Text, base: Opt<Text>) -> Option<Text> {
    urls::parse(&input.0, base.0.as_ref().map(|base| base.0.as_str())).map(Text)
}

fn parts<'js>(ctx: Ctx<'js>, href: Text) -> Result<Option<Array<'js>>> {
    let Some(parts) = urls::parts(&href.0) else {
        return Ok(None);
    };
    let array = Array::new(ctx)?;
    for (index, part) in parts.into_iter().enumerate() {
        array.set(index, part)?;
    }
    Ok(Some(array))
}

fn set(href: Text, part: Text, value: Text) -> Option<Text> {
    urls::set(href.0, &part.0, &value.0).map(Text)
}
