//! The WHATWG URL parser. `url.js` keeps the text of a URL and asks for what it needs.

use url::{Url, quirks};

/// The serialised URL, or `None` if it is not one.
#[must_use]
pub fn parse(input: &str, base: Option<&str>) -> Option<String> {
    let base = match base {
        Some(base) => Some(Url::parse(base).ok()?),
        None => None,
    };
    let url = Url::options().base_url(base.as_ref()).parse(input).ok()?;
    Some(url.into())
}

/// In the order that `url.js` names them.
#[must_use]
pub fn parts(href: &str) -> Option<[String; 10]> {
    let url = Url::parse(href).ok()?;
    Some([
        quirks::protocol(&url).to_owned(),
        quirks::username(&url).to_owned(),
        quirks::password(&url).to_owned(),
        quirks::host(&url).to_owned(),
        quirks::hostname(&url).to_owned(),
        quirks::port(&url).to_owned(),
        quirks::pathname(&url).to_owned(),
        quirks::search(&url).to_owned(),
        quirks::hash(&url).to_owned(),
        quirks::origin(&url),
    ])
}

/// The URL with one part set. As the standard says, a value that does not fit changes nothing.
#[must_use]
pub fn set(href: String, part: &str, value: &str) -> Option<String> {
    let mut url = Url::parse(&href).ok()?;
    let accepted = match part {
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
    Some(accepted.map_or(href, |()| url.into()))
}
