//! The page: overview, operations with their examples, types, error codes.

mod example;
mod text;

use super::super::error::Code;
use super::super::openapi::{OVERVIEW, is_null, operations};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use text::{block, line};
use utoipa::openapi::path::{Operation, Parameter, ParameterIn};
use utoipa::openapi::schema::{AdditionalProperties, ArrayItems, Object, Schema, SchemaType, Type};
use utoipa::openapi::{Content, OpenApi, RefOr, Required, Response, Tag};

const STYLE: &str = include_str!("page/style.css");

/// An operation and where it is.
struct Place<'d> {
    path: &'d str,
    method: &'static str,
    operation: &'d Operation,
}

impl Place<'_> {
    fn id(&self) -> &str {
        self.operation.operation_id.as_deref().unwrap_or_default()
    }

    fn summary(&self) -> &str {
        self.operation.summary.as_deref().unwrap_or_default()
    }
}

/// The operations of a tag, in the order of the routes.
fn places<'d>(document: &'d OpenApi, tag: &str) -> Vec<Place<'d>> {
    let all = document.paths.paths.iter().flat_map(|(path, item)| {
        operations(item).map(move |(method, operation)| Place { path, method, operation })
    });
    all.filter(|place| place.operation.tags.iter().flatten().any(|name| name == tag)).collect()
}

/// The whole page.
pub(super) fn render(document: &OpenApi) -> Markup {
    let tags: Vec<(&Tag, Vec<Place<'_>>)> =
        document.tags.iter().flatten().map(|tag| (tag, places(document, &tag.name))).collect();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "anchorhold API " (document.info.version) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a .skip href="#overview" { "Skip to the content" }
                nav aria-label="Contents" { (contents(&tags)) }
                details .contents { summary { "Contents" } nav aria-label="Contents" { (contents(&tags)) } }
                main {
                    section #overview {
                        h1 { "anchorhold API " span .version { (document.info.version) } }
                        (block(OVERVIEW))
                        p { "The same for programs: " a href="/openapi.json" { "openapi.json" } "." }
                    }
                    @for (tag, places) in &tags {
                        section id=(anchor(&tag.name)) {
                            h2 { (tag.name) }
                            @if let Some(about) = &tag.description { (block(about)) }
                            @for place in places { (operation(document, place)) }
                        }
                    }
                    (types(document))
                    (codes())
                }
            }
        }
    }
}

/// Of a tag's name.
fn anchor(tag: &str) -> String {
    format!("group-{}", tag.to_lowercase())
}

fn contents(tags: &[(&Tag, Vec<Place<'_>>)]) -> Markup {
    html! {
        ul {
            li { a href="#overview" { "Overview" } }
            @for (tag, places) in tags {
                li {
                    a href={ "#" (anchor(&tag.name)) } { (tag.name) }
                    ul { @for place in places { li { a href={ "#" (place.id()) } { (place.summary()) } } } }
                }
            }
            li { a href="#types" { "Types" } }
            li { a href="#codes" { "Error codes" } }
        }
    }
}

fn operation(document: &OpenApi, place: &Place<'_>) -> Markup {
    let operation = place.operation;
    html! {
        article id=(place.id()) {
            h3 { a href={ "#" (place.id()) } { (place.summary()) } }
            p .route { span class={ "method " (place.method) } { (place.method) } " " code { (place.path) } }
            @if let Some(about) = &operation.description { (block(about)) }
            (parameters(operation))
            @if let Some(RefOr::T(body)) = &operation.request_body {
                @for (kind, content) in &body.content {
                    h4 { "Body " span .kind { (kind) } }
                    (content_of(document, content, body.required == Some(Required::True)))
                }
            }
            (example::all(document, place))
            (answers(operation))
        }
    }
}

fn parameters(operation: &Operation) -> Markup {
    let parameters: Vec<&Parameter> = operation
        .parameters
        .iter()
        .flatten()
        .filter_map(|parameter| match parameter {
            RefOr::T(parameter) => Some(parameter),
            RefOr::Ref(_) => None,
        })
        .collect();
    html! {
        @if !parameters.is_empty() {
            h4 { "Parameters" }
            (table(&["Name", "Type", "About"], html! {
                @for parameter in parameters {
                    tr {
                        td { code { (parameter.name) } (needed(parameter.required == Required::True)) }
                        td {
                            (place_of(&parameter.parameter_in)) ", "
                            @if let Some(schema) = &parameter.schema { (type_of(schema)) }
                        }
                        td { (line(parameter.description.as_deref().unwrap_or_default())) }
                    }
                }
            }))
        }
    }
}

fn place_of(place: &ParameterIn) -> &'static str {
    match place {
        ParameterIn::Path => "path",
        ParameterIn::Header => "header",
        ParameterIn::Cookie => "cookie",
        ParameterIn::Query | ParameterIn::QueryString => "query",
    }
}

fn needed(needed: bool) -> Markup {
    html! { @if needed { " " span .needed { "required" } } }
}

/// What a body consists of: the fields of a type that is used only here, else its name.
fn content_of(document: &OpenApi, content: &RefOr<Content>, required: bool) -> Markup {
    let RefOr::T(Content { schema: Some(schema), .. }) = content else { return html! {} };
    let whole = resolve(document, schema);
    html! {
        @if !required { p { "May be left out." } }
        @match whole {
            Some(Schema::Object(object)) if !object.properties.is_empty() => (fields(object)),
            _ => p { (type_of(schema)) },
        }
    }
}

/// The schema that is meant, also by a reference or by one that may be `null`.
fn resolve<'d>(document: &'d OpenApi, schema: &'d RefOr<Schema>) -> Option<&'d Schema> {
    match schema {
        RefOr::Ref(reference) => {
            let name = reference.ref_location.rsplit('/').next()?;
            resolve(document, document.components.as_ref()?.schemas.get(name)?)
        }
        RefOr::T(Schema::OneOf(one)) => resolve(document, one.items.iter().find(|item| !is_null(item))?),
        RefOr::T(schema) => Some(schema),
    }
}

fn fields(object: &Object) -> Markup {
    table(
        &["Field", "Type", "About"],
        html! {
            @for (name, schema) in &object.properties {
                tr {
                    td { code { (name) } (needed(object.required.contains(name))) }
                    td { (type_of(schema)) }
                    td { (line(about(schema))) }
                }
            }
        },
    )
}

/// What is said about a field, besides its type's own description.
fn about(schema: &RefOr<Schema>) -> &str {
    match schema {
        RefOr::Ref(reference) => &reference.description,
        RefOr::T(Schema::Object(object)) => object.description.as_deref().unwrap_or_default(),
        RefOr::T(Schema::Array(array)) => array.description.as_deref().unwrap_or_default(),
        RefOr::T(Schema::OneOf(one)) => match one.items.iter().find(|item| !is_null(item)) {
            Some(item) if one.description.is_none() => about(item),
            _ => one.description.as_deref().unwrap_or_default(),
        },
        RefOr::T(_) => "",
    }
}

/// A type in words, with links to those that have names.
fn type_of(schema: &RefOr<Schema>) -> Markup {
    match schema {
        RefOr::Ref(reference) => {
            let name = reference.ref_location.rsplit('/').next().unwrap_or_default();
            html! { a href={ "#type-" (name) } { (name) } }
        }
        RefOr::T(Schema::Object(object)) => type_of_object(object),
        RefOr::T(Schema::Array(array)) => html! {
            "list" @if let ArrayItems::RefOrSchema(items) = &array.items { " of " (type_of(items)) }
            @if matches!(&array.schema_type, SchemaType::Array(types) if types.contains(&Type::Null)) { " or null" }
        },
        RefOr::T(Schema::OneOf(one)) => html! {
            @for (at, item) in one.items.iter().enumerate() { @if at > 0 { " or " } (type_of(item)) }
        },
        RefOr::T(_) => html! { "any" },
    }
}

fn type_of_object(object: &Object) -> Markup {
    let kinds: &[Type] = match &object.schema_type {
        SchemaType::Type(one) => std::slice::from_ref(one),
        SchemaType::Array(several) => several,
        SchemaType::AnyValue => &[],
    };
    let names: Vec<&str> = kinds.iter().filter(|kind| **kind != Type::Null).map(name_of).collect();
    html! {
        @if kinds.is_empty() { "any" } @else if names.is_empty() { "null" } @else { (names.join(" or ")) }
        @if let Some(AdditionalProperties::RefOr(values)) = object.additional_properties.as_deref() {
            " of " (type_of(values))
        }
        @if let Some(values) = &object.enum_values {
            @for (at, value) in values.iter().enumerate() {
                (if at == 0 { ": " } else { ", " }) code { (value.as_str().unwrap_or_default()) }
            }
        }
        @if !names.is_empty() && names.len() < kinds.len() { " or null" }
    }
}

fn name_of(one: &Type) -> &'static str {
    match one {
        Type::Object => "object",
        Type::String => "string",
        Type::Integer => "integer",
        Type::Number => "number",
        Type::Boolean => "boolean",
        Type::Array => "list",
        Type::Null => "null",
    }
}

fn answers(operation: &Operation) -> Markup {
    html! {
        h4 { "Answers" }
        (table(&["Status", "Body", "About"], html! {
            @for (status, answer) in &operation.responses.responses {
                @if let RefOr::T(answer) = answer {
                    tr { td { code { (status) } } td { (bodies(answer)) } td { (block(&answer.description)) } }
                }
            }
        }))
    }
}

fn bodies(answer: &Response) -> Markup {
    html! {
        @for (at, (kind, content)) in answer.content.iter().enumerate() {
            @if at > 0 { br; }
            @match content {
                RefOr::T(Content { schema: Some(schema), .. }) if kind.ends_with("json") => (type_of(schema)),
                _ => span .kind { (kind) },
            }
        }
    }
}

fn types(document: &OpenApi) -> Markup {
    let schemas = document.components.iter().flat_map(|components| &components.schemas);
    html! {
        section #types {
            h2 { "Types" }
            @for (name, schema) in schemas {
                article id={ "type-" (name) } {
                    h3 { a href={ "#type-" (name) } { (name) } }
                    (block(about(schema)))
                    @match resolve(document, schema) {
                        Some(Schema::Object(object)) if !object.properties.is_empty() => (fields(object)),
                        _ => {},
                    }
                }
            }
        }
    }
}

fn codes() -> Markup {
    html! {
        section #codes {
            h2 { "Error codes" }
            p { (line("The `code` of a problem. Those with 429 and 503 pass: `Retry-After` says when to try again.")) }
            (table(&["Status", "Code", "About"], html! {
                @for code in Code::ALL {
                    tr {
                        td { code { (code.status().as_u16()) } }
                        td { code { (code) } }
                        td { (line(code.meaning())) }
                    }
                }
            }))
        }
    }
}

/// A table that can be moved sideways where it is wider than the screen.
fn table(heads: &[&str], rows: Markup) -> Markup {
    html! {
        div .table {
            table {
                thead { tr { @for head in heads { th { (head) } } } }
                tbody { (rows) }
            }
        }
    }
}
