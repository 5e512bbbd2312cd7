//! The API's document (OpenAPI 3.1), from the annotations beside the handlers and the types that they answer with.
//!
//! A handler names what is special about it. What follows from rules is added here: the problems that a path, a body or
//! a key bring along, headers, and examples. Routes are registered by the same annotations, so that none can be missing.

pub(super) mod sent;

use super::archive::Format as ArchiveFormat;
use super::error::{Code, ProblemBody};
use super::execution::{Disconnect, Signal};
use super::usage::GroupBy;
use crate::service::LinkRole;
use crate::words::{
    CloseReason, Engine, ExecutionStatus, Language, LimitName, RecordKind, Runtime, SessionStatus, words,
};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::link::LinkBuilder;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::schema::{Object, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Components, Content, ContentBuilder, Header, Info, OpenApi, OpenApiBuilder, PathItem, Ref, RefOr,
    Response, ResponseBuilder, Server,
};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

/// What stands in front of the operations.
pub(super) const OVERVIEW: &str = include_str!("openapi/overview.md");
/// Requests and what a server answered. `tests/all/openapi.rs` sends them again, and writes the file when asked to.
const EXAMPLES: &str = include_str!("openapi/examples.json");
/// The name of the security scheme.
const KEY: &str = "key";
/// What makes something within a session or a tenant: by which parameter it is named, and where its name is.
const MAKERS: [(&str, &str, &str); 4] = [
    ("create_execution", "exe", "$response.body#/id"),
    ("create_context", "ctx", "$response.body#/id"),
    ("write_file", "path", "$request.path.path"),
    ("create_key", "key", "$response.body#/id"),
];
/// Groups of operations, in the order of the page.
const TAGS: [(&str, &str); 10] = [
    ("Run", "A whole life in one call: for most programs this is all that is needed."),
    ("Sessions", "A session is a workspace, limits and a lifetime. Creating one costs next to nothing."),
    ("Executions", "An execution is one run of code in a session: what is billed, cancelled and followed."),
    ("Contexts", "A context is one interpreter. Its variables live from one execution to the next."),
    ("Files", "The session's workspace: a directory of its own in memory, seen as `/workspace` by its code."),
    ("Browser", "One Chromium for each session, driven by actions that wait until they can be done."),
    ("Ports", "What programs of a session serve at its `localhost`, shown to people who have the link."),
    ("Usage", "What was used and what it cost."),
    ("Administration", "Who may use the server, and how much. Takes a key that administers."),
    ("Server", "Without a key: whether the server is well, and this document."),
];

words!(
    /// What a session may reach.
    NetworkMode {
        /// Nothing.
        None = "none",
        /// The listed hosts, by a proxy that resolves and checks for the session.
        Allow = "allow",
        /// Every global address, on ports 80 and 443.
        Public = "public",
    }
);

words!(
    /// What a context does.
    ContextStatus {
        /// It has no interpreter yet, or not any more.
        New = "new",
        /// Its interpreter is being made or ended.
        Changing = "changing",
        /// Its interpreter waits for code.
        Idle = "idle",
        /// It runs an execution.
        Running = "running",
    }
);

words!(
    /// What a path leads to.
    EntryType {
        /// A regular file.
        File = "file",
        /// A directory.
        Directory = "directory",
        /// A symbolic link.
        Symlink = "symlink",
        /// Something else, such as a pipe.
        Other = "other",
    }
);

/// The schemas of sets of names: each name with what it means.
macro_rules! schemas_of_words {
    ($($name:ident),+ $(,)?) => {$(
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let words = $name::ALL.iter().map(|word| (word.as_str(), word.meaning()));
                schema_of_words($name::ABOUT, words)
            }
        }

        impl ToSchema for $name {}
    )+};
}

schemas_of_words!(
    ArchiveFormat,
    CloseReason,
    Code,
    ContextStatus,
    Disconnect,
    Engine,
    EntryType,
    ExecutionStatus,
    GroupBy,
    Language,
    LimitName,
    LinkRole,
    NetworkMode,
    RecordKind,
    Runtime,
    SessionStatus,
    Signal,
);

fn schema_of_words<'w>(about: &str, words: impl Iterator<Item = (&'w str, &'w str)>) -> RefOr<Schema> {
    let (mut names, mut text) = (Vec::new(), format!("{about}\n"));
    for (name, meaning) in words {
        text.push_str(&format!("\n- `{name}`: {meaning}"));
        names.push(name);
    }
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names)).description(Some(text)).into()
}

/// One object with the properties of several, without some of them.
pub(super) fn merged<const N: usize>(
    about: &str,
    without: &[&str],
    parts: [RefOr<Schema>; N],
) -> RefOr<Schema> {
    let mut whole = Object::with_type(Type::Object);
    whole.description = Some(about.to_owned());
    for part in parts {
        if let RefOr::T(Schema::Object(part)) = part {
            whole.required.extend(part.required);
            whole.properties.extend(part.properties);
            whole.additional_properties = part.additional_properties;
        }
    }
    whole.properties.retain(|name, _| !without.contains(&name.as_str()));
    Schema::Object(whole).into()
}

/// Sets of codes that a handler names in its `responses`, for what [`implied`] cannot see.
macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident: $($code:ident),+;)+) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                // By their names: what has one status is put together when all are known.
                let codes = [$(Code::$code),+];
                codes.iter().map(|code| (code.to_string(), Response::default().into())).collect()
            }
        }
    )+};
}

refusals!(
    /// What writes to the ledger, without a key.
    Recorded: LedgerUnavailable;
    /// What needs a cell.
    Cells: Capacity, IsolationUnavailable, Draining;
    /// What makes a session.
    Opens: QuotaExceeded, Capacity, IsolationUnavailable, Draining;
    /// What runs code.
    Runs: QuotaExceeded, ContextBusy, ContextNotFound, Conflict;
    /// What takes a live session.
    Live: SessionClosed;
    /// What takes something to be in a state that it may not be in, or a name that may be taken.
    Exclusive: Conflict;
    /// What holds the connection for long.
    Streams: Capacity;
    /// What takes a path in a query or a body.
    Paths: InvalidPath;
    /// What looks for a file that no path of the URL names.
    Found: FileNotFound;
    /// What reads or replaces a regular file.
    Regular: NotRegularFile;
    /// What reads a part of a file.
    Ranges: RangeNotSatisfiable;
    /// What unpacks.
    Archives: InvalidArchive, ArchiveLimit;
    /// What takes a body of any size.
    Uploads: PayloadTooLarge, UnsupportedMediaType, InvalidRequest;
);

/// What the annotations are added to.
pub(super) fn base() -> OpenApi {
    let mut components = Components::new();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A key of the server: `admin.key` of its data directory, or one that it made."));
    components.security_schemes.insert(KEY.to_owned(), SecurityScheme::Http(bearer.build()).into());
    let mut schemas = vec![(ProblemBody::name().into_owned(), ProblemBody::schema())];
    ProblemBody::schemas(&mut schemas);
    components.schemas.extend(schemas);
    for (name, header) in headers() {
        components.headers.insert(name.to_owned(), header.into());
    }
    let mut info = Info::new("anchorhold", env!("CARGO_PKG_VERSION"));
    info.description = Some(OVERVIEW.to_owned());
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([Server::new("/")]))
        .components(Some(components))
        .security(Some([SecurityRequirement::new::<_, [&str; 0], &str>(KEY, [])]))
        .tags(Some(TAGS.map(|(name, about)| TagBuilder::new().name(name).description(Some(about)).build())))
        .build()
}

fn headers() -> [(&'static str, Header); 3] {
    let header = |kind: Type, about: &str| {
        let schema = ObjectBuilder::new().schema_type(kind).build();
        HeaderBuilder::new().schema(Some(schema)).description(Some(about)).build()
    };
    [
        ("X-Request-Id", header(Type::String, "Names this request in the server's logs.")),
        ("Retry-After", header(Type::Integer, "Seconds after which it is worth to try again.")),
        ("WWW-Authenticate", header(Type::String, "`Bearer`")),
    ]
}

/// The document, completed from what all annotations said.
pub(super) fn complete(mut document: OpenApi) -> OpenApi {
    let examples = examples();
    let paths = std::mem::take(&mut document.paths.paths);
    for (path, mut item) in paths {
        for (_, operation) in operations_mut(&mut item) {
            never_null(operation);
            problems(&path, operation);
            let id = operation.operation_id.clone();
            for example in examples.iter().filter(|example| Some(&example.operation) == id.as_ref()) {
                example.add_to(operation);
            }
        }
        // axum's way to say that a parameter may hold slashes.
        document.paths.paths.insert(path.replace("{*", "{"), item);
    }
    link(&mut document);
    document
}

/// Leads from what makes something to everything that acts on it.
fn link(document: &mut OpenApi) {
    let ids = |(path, item): (&String, &PathItem)| -> Vec<(String, String)> {
        operations(item).filter_map(|(_, of)| Some((path.clone(), of.operation_id.clone()?))).collect()
    };
    let places: Vec<(String, String)> = document.paths.paths.iter().flat_map(ids).collect();
    for (_, operation) in document.paths.paths.values_mut().flat_map(operations_mut) {
        let maker = MAKERS.iter().find(|(maker, ..)| operation.operation_id.as_deref() == Some(*maker));
        let Some((_, parameter, value)) = maker else { continue };
        let done = operation.responses.responses.iter_mut().filter(|(status, _)| status.starts_with('2'));
        for (_, answer) in done {
            let RefOr::T(answer) = answer else { continue };
            for (_, id) in places.iter().filter(|(path, _)| path.contains(&format!("{{{parameter}}}"))) {
                let link = LinkBuilder::new().operation_id(id.as_str()).parameter("id", "$request.path.id");
                let link = link.parameter(*parameter, *value).build();
                answer.links.insert(id.clone(), RefOr::T(link));
            }
        }
    }
}

/// The operations of a path, by their methods, in the order of a life: made, read, changed, deleted.
pub(super) fn operations(item: &PathItem) -> impl Iterator<Item = (&'static str, &Operation)> {
    let all = [
        ("POST", &item.post),
        ("PUT", &item.put),
        ("GET", &item.get),
        ("HEAD", &item.head),
        ("PATCH", &item.patch),
        ("DELETE", &item.delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_ref()?)))
}

fn operations_mut(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let all = [
        ("POST", &mut item.post),
        ("PUT", &mut item.put),
        ("GET", &mut item.get),
        ("HEAD", &mut item.head),
        ("PATCH", &mut item.patch),
        ("DELETE", &mut item.delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// What may be left out of a request's head, or as its body, is an `Option` in Rust. That it may be `null`, too, is true
/// of fields only.
fn never_null(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter {
            parameter.schema = parameter.schema.take().map(without_null);
        }
    }
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        for content in body.content.values_mut() {
            if let RefOr::T(content) = content {
                content.schema = content.schema.take().map(without_null);
            }
        }
    }
}

fn without_null(mut schema: RefOr<Schema>) -> RefOr<Schema> {
    match &mut schema {
        RefOr::T(Schema::OneOf(one)) => {
            one.items.retain(|item| !is_null(item));
            if let [only] = one.items.as_slice() { only.clone() } else { schema }
        }
        RefOr::T(Schema::Object(Object { schema_type: kind @ SchemaType::Array(_), .. })) => {
            if let SchemaType::Array(kinds) = &*kind
                && let Some(only) = kinds.iter().find(|kind| **kind != Type::Null)
            {
                *kind = SchemaType::Type(only.clone());
            }
            schema
        }
        _ => schema,
    }
}

/// Whether it allows `null` and nothing else.
pub(super) fn is_null(schema: &RefOr<Schema>) -> bool {
    matches!(schema, RefOr::T(Schema::Object(object)) if object.schema_type == SchemaType::Type(Type::Null))
}

/// Adds the answers that are problems, by status, and the headers of all answers.
fn problems(path: &str, operation: &mut Operation) {
    let mut codes = implied(path, operation);
    let mut answers = BTreeMap::new();
    for (key, answer) in std::mem::take(&mut operation.responses.responses) {
        match key.parse::<Code>() {
            Ok(code) => drop(codes.insert(code)),
            Err(_) => drop(answers.insert(key, answer)),
        }
    }
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in codes {
        by_status.entry(code.status().as_u16()).or_default().push(code);
    }
    for (status, codes) in by_status {
        answers.insert(status.to_string(), problem(&codes).into());
    }
    for (status, answer) in &mut answers {
        if let RefOr::T(answer) = answer {
            let named: &[&str] = match status.as_str() {
                "401" => &["X-Request-Id", "WWW-Authenticate"],
                "429" | "503" => &["X-Request-Id", "Retry-After"],
                _ => &["X-Request-Id"],
            };
            for name in named {
                let header = Ref::new(format!("#/components/headers/{name}"));
                answer.headers.insert((*name).to_owned(), RefOr::Ref(header));
            }
        }
    }
    operation.responses.responses = answers;
}

/// An answer with one of these codes, which have the same status.
fn problem(codes: &[Code]) -> Response {
    let lines: Vec<String> = codes.iter().map(|code| format!("- `{code}`: {}", code.meaning())).collect();
    let schema = Ref::from_schema_name(ProblemBody::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description(lines.join("\n")).content("application/problem+json", content).build()
}

/// The problems that follow from what an operation takes.
fn implied(path: &str, operation: &Operation) -> BTreeSet<Code> {
    let mut codes = BTreeSet::from([Code::Malformed, Code::HeadersTooLarge, Code::Internal]);
    if operation.security.is_none() {
        codes.extend([Code::Unauthorized, Code::Forbidden, Code::RateLimited, Code::LedgerUnavailable]);
    }
    if operation.request_body.is_some() {
        codes.extend([Code::PayloadTooLarge, Code::UnsupportedMediaType, Code::InvalidRequest]);
    }
    for parameter in operation.parameters.iter().flatten() {
        match parameter {
            RefOr::T(parameter) if parameter.name == "Idempotency-Key" => {
                codes.extend([Code::InvalidRequest, Code::IdempotencyConflict]);
            }
            RefOr::T(parameter) if parameter.parameter_in != ParameterIn::Path => {
                codes.insert(Code::InvalidRequest);
            }
            RefOr::T(_) | RefOr::Ref(_) => {}
        }
    }
    for (part, code) in [
        ("/sessions/{id}", Code::SessionNotFound),
        ("/executions/{exe}", Code::ExecutionNotFound),
        ("/contexts/{ctx}", Code::ContextNotFound),
        ("/files/{*path}", Code::FileNotFound),
        ("/files/{*path}", Code::InvalidPath),
        ("/tenants/{id}", Code::NotFound),
        // Its answer is a secret, which no idempotency key brings back.
        ("/tenants/{id}/keys", Code::InvalidRequest),
    ] {
        if path.contains(part) {
            codes.insert(code);
        }
    }
    codes
}

/// A request and what a server answered.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Example {
    /// The id of the operation.
    operation: String,
    /// Unique for the operation.
    name: String,
    /// What it shows.
    summary: String,
    /// The body that is sent.
    request: Option<Value>,
    /// The status that is answered.
    status: u16,
    /// The body that is answered, if it is JSON.
    answer: Option<Value>,
}

#[expect(
    clippy::expect_used,
    reason = "the file is a part of the program, and every test of the router reads it"
)]
fn examples() -> Vec<Example> {
    serde_json::from_str(EXAMPLES).expect("examples.json")
}

impl Example {
    fn add_to(&self, operation: &mut Operation) {
        if let (Some(value), Some(RefOr::T(body))) = (&self.request, &mut operation.request_body) {
            self.show(body.content.values_mut().next(), value);
        }
        let answer = operation.responses.responses.get_mut(&self.status.to_string());
        if let (Some(value), Some(RefOr::T(answer))) = (&self.answer, answer) {
            self.show(answer.content.values_mut().next(), value);
        }
    }

    fn show(&self, content: Option<&mut RefOr<Content>>, value: &Value) {
        let example = utoipa::openapi::example::ExampleBuilder::new()
            .summary(self.summary.as_str())
            .value(Some(value.clone()))
            .build();
        if let Some(RefOr::T(content)) = content {
            content.examples.insert(self.name.clone(), example.into());
        }
    }
}
