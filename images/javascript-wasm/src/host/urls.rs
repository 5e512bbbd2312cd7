//! The WHATWG URL parser. `url.js` keeps the text of a URL and asks for what it needs.

use rquickjs::prelude::{Func, Opt};
use rquickjs::{Array, Ctx, Object, Result};
use url::{Url, quirks};

use super::Text;

pub fn add(host: &Object<'_>) -> Result<()> {
    host.set("urlParse", Func::from(parse))?;
    host.set("urlParts", Func::from(parts))?;
    host.set("urlSet", Func::from(set))
}

/// The serialised URL, or undefined if it is not one.
fn parse(input: Text, base: Opt<Text>) -> Option<Text> {
    let base = match base.0 {
        Some(base) => Some(Url::parse(&base.0).ok()?),
        None => None,
    };
    let url = Url::options().base_url(base.as_ref()).parse(&input.0).ok()?;
    Some(Text(url.into()))
}

/// In the order that `url.js` names them.
fn parts<'js>(ctx: Ctx<'js>, href: Text) -> Result<Option<Array<'js>>> {
    let Ok(url) = Url::parse(&href.0) else {
        return Ok(None);
    };
    let parts = [
        quirks::protocol(&url),
        quirks::username(&url),
        quirks::password(&url),
        quirks::host(&url),
        quirks::hostname(&url),
        quirks::port(&url),
        quirks::pathname(&url),
        quirks::search(&url),
        quirks::hash(&url),
        &quirks::origin(&url),
    ];
    let array = Array::new(ctx)?;
    for (index, part) in parts.into_iter().enumerate() {
        array.set(index, part)?;
    }
    Ok(Some(array))
}

/// The URL with one part set. As the standard says, a value that does not fit changes nothing.
fn set(href: Text, part: Text, value: Text) -> Option<Text> {
    let mut url = Url::parse(&href.0).ok()?;
    let value = value.0.as_str();
    let accepted = match part.0.as_str() {
        "protocol" => quirks::set_protocol(&mut url, value),
        "username" => quirks::set_username(&mut url, value),
        "password" => quirks::set_password(&mut url, value),
        "host" => quirks::set_host(&mut url, value),
        "hostname" => quirks::set_hostname(&mut url, value),
        "port" => quirks::set_port(&mut url, value),
        "pathname" => {
            quirks::set_pathname(&mut url, value);
            Ok(())
        }
        "search" => {
            quirks::set_search(&mut url, value);
            Ok(())
        }
        "hash" => {
            quirks::set_hash(&mut url, value);
            Ok(())
        }
        _ => Err(()),
    };
    Some(accepted.map_or(href, |()| Text(url.into())))
}
