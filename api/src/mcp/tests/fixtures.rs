//! What the protocol's test suite asks a server to have, in the forms in which our tools answer: what the suite sees goes
//! through the same conversation, answers and notifications as what a client sees.

use crate::http::error::{Code, Problem};
use crate::mcp::answer::{Done, refused};
use crate::mcp::conversation::Conversation;
use crate::mcp::watch::SetLevel;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, ClientCapabilities, ContentBlock, InitializeRequestParams,
    InitializeResult, JsonObject, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
    PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, Resource,
    ResourceContents, ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::{Value, json};
use std::time::Duration;

/// The smallest picture and the smallest sound.
const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/PchI7wAAAABJRU5ErkJggg==";
const WAV: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA=";
/// Longer than the least time between two notes of progress.
const STEP: Duration = Duration::from_millis(120);

/// Our side of the protocol, with more tools and with resources that are always there.
pub(super) struct Fixtures(Conversation);

impl Fixtures {
    pub(super) fn new(ours: Conversation) -> Self {
        Self(ours)
    }

    async fn fixture(&self, name: &str, context: &RequestContext<RoleServer>) -> Result<Done, Problem> {
        let call = self.0.call(context).map_err(|error| Problem::new(Code::Internal, error.message))?;
        let mut telling = call.watch.begin();
        let blocks = match name {
            "test_simple_text" => vec![ContentBlock::text("This is a simple text response for testing.")],
            "test_image_content" => vec![ContentBlock::image(PNG, "image/png")],
            "test_audio_content" => vec![ContentBlock::audio(WAV, "audio/wav")],
            "test_embedded_resource" => vec![embedded("test://embedded-resource")],
            "test_multiple_content_types" => vec![
                ContentBlock::text("Multiple content types test:"),
                ContentBlock::image(PNG, "image/png"),
                embedded("test://mixed-content-resource"),
            ],
            "test_error_handling" => {
                return Err(Problem::new(
                    Code::Conflict,
                    "This tool intentionally returns an error for testing",
                ));
            }
            "test_tool_with_logging" | "test_tool_with_progress" | "test_logging_tool" => {
                for text in ["started\n", "processing\n", "completed\n"] {
                    tokio::time::sleep(STEP).await;
                    telling.stdout(text).await;
                }
                vec![ContentBlock::text("done")]
            }
            _ => return Err(Problem::new(Code::NotFound, "no such fixture")),
        };
        Ok(Done { blocks, ..Done::new(String::new(), &json!({ "fixture": name }))? })
    }
}

#[expect(deprecated, reason = "sampling leaves the protocol by SEP-2577; the suite still asks for it")]
fn needs_sampling() -> ErrorData {
    ErrorData::missing_required_client_capability(ClientCapabilities::builder().enable_sampling().build())
}

fn embedded(uri: &str) -> ContentBlock {
    let contents = ResourceContents::text("This is an embedded resource content.", uri);
    ContentBlock::resource(contents.with_mime_type("text/plain"))
}

/// The suite's tools that our door can have: none of its tools asks a client for anything.
const TOOLS: [&str; 10] = [
    "test_simple_text",
    "test_image_content",
    "test_audio_content",
    "test_embedded_resource",
    "test_multiple_content_types",
    "test_error_handling",
    "test_tool_with_logging",
    "test_tool_with_progress",
    "test_logging_tool",
    "test_missing_capability",
];

fn tools() -> Vec<Tool> {
    let plain = TOOLS.map(|name| Tool::new(name, "A fixture.", object(json!({ "type": "object" }))));
    let mut tools = plain.to_vec();
    tools.push(Tool::new("json_schema_2020_12_tool", "All of JSON Schema.", object(everything())));
    tools
}

/// The schema that the suite wants to see again as it is.
fn everything() -> Value {
    let text = json!({ "type": "string" });
    let address = json!({
        "$anchor": "addressDef", "type": "object", "properties": { "street": text, "city": text },
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": { "address": address },
        "properties": {
            "name": text,
            "address": { "$ref": "#/$defs/address" },
            "contactMethod": { "type": "string", "enum": ["phone", "email"] },
            "phone": text,
            "email": text,
        },
        "allOf": [{ "anyOf": [{ "required": ["phone"] }, { "required": ["email"] }] }],
        "if": { "properties": { "contactMethod": { "const": "phone" } }, "required": ["contactMethod"] },
        "then": { "required": ["phone"] },
        "else": { "required": ["email"] },
        "additionalProperties": false,
    })
}

fn object(value: Value) -> JsonObject {
    value.as_object().cloned().unwrap()
}

fn resource(uri: &str) -> Option<ResourceContents> {
    let contents = match uri {
        "test://static-text" => {
            ResourceContents::text("This is the content of the static text resource.", uri)
                .with_mime_type("text/plain")
        }
        "test://static-binary" => ResourceContents::blob(PNG, uri).with_mime_type("image/png"),
        _ => {
            let id = uri.strip_prefix("test://template/")?.strip_suffix("/data")?;
            let data = json!({ "id": id, "templateTest": true, "data": format!("Data for ID: {id}") });
            ResourceContents::text(data.to_string(), uri).with_mime_type("application/json")
        }
    };
    Some(contents)
}

impl ServerHandler for Fixtures {
    fn get_info(&self) -> ServerConfig {
        self.0.get_info()
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        self.0.initialize(request, context).await
    }

    async fn set_level(
        &self,
        request: SetLevel,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.0.set_level(request, context).await
    }

    async fn list_tools(
        &self,
        page: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let mut listed = self.0.list_tools(page, context).await?;
        listed.tools.extend(tools());
        Ok(listed)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if !TOOLS.contains(&&*request.name) {
            return self.0.call_tool(request, context).await;
        }
        if request.name == "test_missing_capability" {
            return Err(needs_sampling());
        }
        Ok(match self.fixture(&request.name, &context).await {
            Ok(done) => done.into_result(),
            Err(problem) => refused(&problem),
        }
        .into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let all = ["test://static-text", "test://static-binary"];
        let all = all.map(|uri| Resource::new(uri, uri).with_description("A fixture."));
        Ok(ListResourcesResult::with_all_items(all.to_vec()))
    }

    async fn list_resource_templates(
        &self,
        page: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        self.0.list_resource_templates(page, context).await
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        match resource(&request.uri) {
            Some(contents) => Ok(ReadResourceResult::new(vec![contents]).into()),
            None => self.0.read_resource(request, context).await,
        }
    }
}
