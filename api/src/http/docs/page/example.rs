//! Examples: the shell command that sends a request, and what a server answered to it.

use super::{Place, resolve};
use maud::{Markup, html};
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::openapi::example::Example;
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::schema::{AdditionalProperties, ArrayItems, Schema};
use utoipa::openapi::{Content, OpenApi, RefOr};

/// The schema of a value, if it is known: it gives fields their order.
type Shape<'d> = Option<&'d RefOr<Schema>>;

/// What of an example was recorded.
#[derive(Default)]
struct Shown<'d> {
    summary: &'d str,
    request: Option<(&'d Value, Shape<'d>)>,
    answer: Option<(&'d str, &'d Value, Shape<'d>)>,
}

/// Every example of an operation; a plain command where none was recorded.
pub(super) fn all(document: &OpenApi, place: &Place<'_>) -> Markup {
    let mut examples = recorded(place);
    if examples.is_empty() {
        examples.insert("", Shown::default());
    }
    html! {
        @for (name, shown) in &examples {
            h4 { "Example" @if !shown.summary.is_empty() { ": " (shown.summary) } }
            pre .command data-operation=(place.id()) data-example=(name) tabindex="0" {
                code { (command(document, place, shown)) }
            }
            @if let Some((status, value, schema)) = shown.answer {
                pre .answer tabindex="0" {
                    span .status { (status) } code { (pretty(document, value, schema)) }
                }
            }
        }
    }
}

/// Examples by their names.
fn recorded<'d>(place: &Place<'d>) -> BTreeMap<&'d str, Shown<'d>> {
    let mut examples: BTreeMap<&str, Shown<'_>> = BTreeMap::new();
    if let Some(RefOr::T(body)) = &place.operation.request_body {
        for (name, example, schema) in body.content.values().flat_map(of) {
            let shown = examples.entry(name).or_default();
            shown.summary = &example.summary;
            shown.request = example.value.as_ref().map(|value| (value, schema));
        }
    }
    for (status, answer) in &place.operation.responses.responses {
        let RefOr::T(answer) = answer else { continue };
        for (name, example, schema) in answer.content.values().flat_map(of) {
            let shown = examples.entry(name).or_default();
            shown.summary = &example.summary;
            shown.answer = example.value.as_ref().map(|value| (status.as_str(), value, schema));
        }
    }
    examples
}

fn of(content: &RefOr<Content>) -> Vec<(&str, &Example, Shape<'_>)> {
    let RefOr::T(content) = content else { return Vec::new() };
    let examples = content.examples.iter().filter_map(|(name, example)| match example {
        RefOr::T(example) => Some((name.as_str(), example, content.schema.as_ref())),
        RefOr::Ref(_) => None,
    });
    examples.collect()
}

/// The request as a command for a shell that has the variables of the overview.
fn command(document: &OpenApi, place: &Place<'_>, shown: &Shown<'_>) -> String {
    let (url, headers) = target(place);
    let mut lines = vec![match place.method {
        "GET" => format!("curl -s \"$ANCHORHOLD{url}\""),
        "HEAD" => format!("curl -sI \"$ANCHORHOLD{url}\""),
        method => format!("curl -s -X {method} \"$ANCHORHOLD{url}\""),
    }];
    if place.operation.security.is_none() {
        lines.push("-H \"Authorization: Bearer $KEY\"".to_owned());
    }
    lines.extend(headers.iter().map(|(name, value)| format!("-H \"{name}: {value}\"")));
    let mut body = String::new();
    if let Some((value, schema)) = shown.request {
        lines.push("-H \"Content-Type: application/json\" -d @- <<'END'".to_owned());
        body = format!("\n{}\nEND", pretty(document, value, schema));
    } else if place.method == "PUT" {
        lines.push("--data-binary @notes.txt".to_owned());
    } else if takes_bytes(place) {
        lines.push("-H \"Content-Type: application/octet-stream\" --data-binary @files.tar.gz".to_owned());
    }
    lines.join(" \\\n  ") + &body
}

fn takes_bytes(place: &Place<'_>) -> bool {
    matches!(&place.operation.request_body, Some(RefOr::T(body)) if body.content.contains_key("application/octet-stream"))
}

/// The path and query with what stands for parameters, and headers that have an example.
fn target<'d>(place: &Place<'d>) -> (String, Vec<(&'d str, String)>) {
    let (mut url, mut query, mut headers) = (place.path.to_owned(), Vec::new(), Vec::new());
    for parameter in place.operation.parameters.iter().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        let (name, example) = (parameter.name.as_str(), example_of(parameter));
        match (&parameter.parameter_in, example) {
            (ParameterIn::Path, example) => {
                let value = example.unwrap_or_else(|| format!("${}", variable(parameter)));
                url = url.replace(&format!("{{{name}}}"), &value);
            }
            (ParameterIn::Header, Some(value)) => headers.push((name, value)),
            (_, Some(value)) => query.push(format!("{name}={value}")),
            (_, None) => {}
        }
    }
    if !query.is_empty() {
        url = format!("{url}?{}", query.join("&"));
    }
    (url, headers)
}

fn example_of(parameter: &Parameter) -> Option<String> {
    // The field itself is private.
    let written = serde_json::to_value(parameter).ok()?;
    let value = written.get("example")?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

/// The variable that holds an id, by the kind of id.
fn variable(parameter: &Parameter) -> &'static str {
    let pattern = match &parameter.schema {
        Some(RefOr::T(Schema::Object(object))) => object.pattern.as_deref().unwrap_or_default(),
        _ => "",
    };
    match pattern.get(1..4) {
        Some("ses") => "SESSION",
        Some("exe") => "EXECUTION",
        Some("ctx") => "CONTEXT",
        Some("ten") => "TENANT",
        Some("key") => "KEY_ID",
        _ => "VALUE",
    }
}

/// JSON on several lines, fields in the order of the schema.
fn pretty(document: &OpenApi, value: &Value, schema: Shape<'_>) -> String {
    let mut text = String::new();
    write(&mut text, document, value, schema, 0);
    text
}

fn write(text: &mut String, document: &OpenApi, value: &Value, schema: Shape<'_>, depth: usize) {
    let schema = schema.and_then(|schema| resolve(document, schema));
    let items: Vec<(String, &Value, Shape<'_>)>;
    let (open, close) = match value {
        Value::Object(fields) if !fields.is_empty() => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_by_key(|name| place_in(schema, name));
            let named = |name: &String| {
                (format!("{}: ", Value::from(name.as_str())), &fields[name], field(schema, name))
            };
            items = names.into_iter().map(named).collect();
            ('{', '}')
        }
        Value::Array(values) if !values.is_empty() => {
            let of = match schema {
                Some(Schema::Array(array)) => match &array.items {
                    ArrayItems::RefOrSchema(of) => Some(&**of),
                    ArrayItems::False => None,
                },
                _ => None,
            };
            items = values.iter().map(|value| (String::new(), value, of)).collect();
            ('[', ']')
        }
        other => return text.push_str(&other.to_string()),
    };
    text.push(open);
    for (at, (name, value, schema)) in items.into_iter().enumerate() {
        text.push_str(if at == 0 { "\n" } else { ",\n" });
        text.push_str(&"  ".repeat(depth + 1));
        text.push_str(&name);
        write(text, document, value, schema, depth + 1);
    }
    text.push('\n');
    text.push_str(&"  ".repeat(depth));
    text.push(close);
}

/// Where a field stands among the schema's; behind them when it is none of them.
fn place_in(schema: Option<&Schema>, name: &str) -> usize {
    let place = match schema {
        Some(Schema::Object(object)) => object.properties.keys().position(|known| known == name),
        _ => None,
    };
    place.unwrap_or(usize::MAX)
}

fn field<'d>(schema: Option<&'d Schema>, name: &str) -> Shape<'d> {
    match schema? {
        Schema::Object(object) => match object.additional_properties.as_deref() {
            Some(AdditionalProperties::RefOr(values)) => Some(values),
            _ => object.properties.get(name),
        },
        _ => None,
    }
}
