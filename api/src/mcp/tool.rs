//! What tools there are and how models see them. Names, descriptions and schemas are a part of the product:
//! `tests/golden/mcp_tools.json` holds them as they are sent.

use super::{browser, code, files, session};
use crate::http::body::Query;
use crate::http::error::Problem;
use crate::words::words;
use axum::http::Uri;
use rmcp::model::{self, JsonObject, ToolAnnotations};
use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema};
use serde_json::Value;
use std::sync::{Arc, LazyLock};

words!(
    /// A tool.
    Tool {
        /// Runs code.
        ExecuteCode = "execute_code",
        /// Runs a command line.
        RunCommand = "run_command",
        /// Starts a command line.
        StartCommand = "start_command",
        /// Looks at an execution.
        GetTask = "get_task",
        /// Ends an execution.
        StopTask = "stop_task",
        /// Reads files.
        ReadFiles = "read_files",
        /// Writes files.
        WriteFiles = "write_files",
        /// Lists files.
        ListFiles = "list_files",
        /// Removes files.
        RemoveFiles = "remove_files",
        /// Opens a page.
        BrowserNavigate = "browser_navigate",
        /// Goes one page back.
        BrowserNavigateBack = "browser_navigate_back",
        /// Reads the page.
        BrowserSnapshot = "browser_snapshot",
        /// Clicks.
        BrowserClick = "browser_click",
        /// Writes into a field.
        BrowserType = "browser_type",
        /// Fills several fields.
        BrowserFillForm = "browser_fill_form",
        /// Chooses in a list.
        BrowserSelectOption = "browser_select_option",
        /// Presses a key.
        BrowserPressKey = "browser_press_key",
        /// Takes a picture.
        BrowserTakeScreenshot = "browser_take_screenshot",
        /// Waits.
        BrowserWaitFor = "browser_wait_for",
        /// Lists, opens, selects and closes tabs.
        BrowserTabs = "browser_tabs",
        /// Runs JavaScript in the page.
        BrowserEvaluate = "browser_evaluate",
        /// Answers a dialog.
        BrowserHandleDialog = "browser_handle_dialog",
        /// Gives files to a page.
        BrowserFileUpload = "browser_file_upload",
        /// Ends the browser.
        BrowserClose = "browser_close",
        /// Makes a session.
        SessionCreate = "session_create",
        /// Looks at a session.
        SessionGet = "session_get",
        /// Ends a session.
        SessionClose = "session_close",
        /// Sums up what was used.
        UsageGet = "usage_get",
    }
);

words!(
    /// A group of tools that a client may choose (`?tools=code,files`), so that a model sees only what it needs.
    Profile {
        /// Running code.
        Code = "code",
        /// The workspace.
        Files = "files",
        /// The browser.
        Browser = "browser",
        /// Sessions and what they cost.
        Session = "session",
    }
);

/// What a tool does to the world, told to clients that ask people before they call one.
#[derive(Clone, Copy)]
enum Effect {
    /// It only looks.
    Reads,
    /// It makes something new.
    Adds,
    /// It may change or end what is there. `true`: doing it again changes nothing more.
    Changes(bool),
}

impl Tool {
    fn profile(self) -> Profile {
        match self {
            Self::ExecuteCode | Self::RunCommand | Self::StartCommand | Self::GetTask | Self::StopTask => {
                Profile::Code
            }
            Self::ReadFiles | Self::WriteFiles | Self::ListFiles | Self::RemoveFiles => Profile::Files,
            Self::SessionCreate | Self::SessionGet | Self::SessionClose | Self::UsageGet => Profile::Session,
            Self::BrowserNavigate
            | Self::BrowserNavigateBack
            | Self::BrowserSnapshot
            | Self::BrowserClick
            | Self::BrowserType
            | Self::BrowserFillForm
            | Self::BrowserSelectOption
            | Self::BrowserPressKey
            | Self::BrowserTakeScreenshot
            | Self::BrowserWaitFor
            | Self::BrowserTabs
            | Self::BrowserEvaluate
            | Self::BrowserHandleDialog
            | Self::BrowserFileUpload
            | Self::BrowserClose => Profile::Browser,
        }
    }

    fn effect(self) -> Effect {
        match self {
            Self::GetTask
            | Self::ReadFiles
            | Self::ListFiles
            | Self::SessionGet
            | Self::UsageGet
            | Self::BrowserSnapshot
            | Self::BrowserWaitFor => Effect::Reads,
            Self::SessionCreate => Effect::Adds,
            Self::ExecuteCode
            | Self::RunCommand
            | Self::StartCommand
            | Self::BrowserNavigateBack
            | Self::BrowserClick
            | Self::BrowserType
            | Self::BrowserFillForm
            | Self::BrowserSelectOption
            | Self::BrowserPressKey
            | Self::BrowserTabs
            | Self::BrowserEvaluate
            | Self::BrowserHandleDialog => Effect::Changes(false),
            Self::BrowserNavigate
            | Self::BrowserTakeScreenshot
            | Self::BrowserFileUpload
            | Self::BrowserClose => Effect::Changes(true),
            Self::StopTask | Self::WriteFiles | Self::RemoveFiles | Self::SessionClose => {
                Effect::Changes(true)
            }
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::ExecuteCode => "Run code",
            Self::RunCommand => "Run a command",
            Self::StartCommand => "Start a command",
            Self::GetTask => "Look at a task",
            Self::StopTask => "Stop a task",
            Self::ReadFiles => "Read files",
            Self::WriteFiles => "Write files",
            Self::ListFiles => "List files",
            Self::RemoveFiles => "Remove files",
            Self::BrowserNavigate => "Open a page",
            Self::BrowserNavigateBack => "Go back",
            Self::BrowserSnapshot => "Read the page",
            Self::BrowserClick => "Click",
            Self::BrowserType => "Write into a field",
            Self::BrowserFillForm => "Fill a form",
            Self::BrowserSelectOption => "Choose in a list",
            Self::BrowserPressKey => "Press a key",
            Self::BrowserTakeScreenshot => "Take a screenshot",
            Self::BrowserWaitFor => "Wait",
            Self::BrowserTabs => "Manage tabs",
            Self::BrowserEvaluate => "Run JavaScript in the page",
            Self::BrowserHandleDialog => "Answer a dialog",
            Self::BrowserFileUpload => "Give files to a page",
            Self::BrowserClose => "Close the browser",
            Self::SessionCreate => "Make a session",
            Self::SessionGet => "Look at a session",
            Self::SessionClose => "End a session",
            Self::UsageGet => "Sum up usage",
        }
    }

    #[expect(clippy::too_many_lines, reason = "a table: one entry for each tool")]
    fn description(self) -> &'static str {
        match self {
            Self::ExecuteCode => {
                "Runs Python, JavaScript or TypeScript and answers its output and the value of its last expression. \
                 Variables, imports and files in /workspace stay for the next call. \
                 Runtime native (the default where the server has it): CPython with numpy, pandas, matplotlib, \
                 scikit-learn and more, figures are shown; Node. Runtime wasm: starts in a millisecond, standard library only."
            }
            Self::RunCommand => {
                "Runs a command line in bash, in /workspace, and answers its output and exit code. \
                 Python, Node, git, curl, jq, sqlite3 and the usual tools are there. \
                 Nothing but files stays for the next call."
            }
            Self::StartCommand => {
                "Starts a command line in bash that may run as long as the session lives, and answers a task_id. See get_task."
            }
            Self::GetTask => {
                "Answers where a task is and what it wrote after a position. \
                 Reads all that execute_code left out of a long output, piece by piece."
            }
            Self::StopTask => {
                "Stops a running task. Variables stay where the interpreter can be interrupted."
            }
            Self::ReadFiles => {
                "Reads files of /workspace: text as text, images as images, anything else in base64. \
                 A long file is cut; code in execute_code can read any part of it."
            }
            Self::WriteFiles => {
                "Writes whole files to /workspace; makes directories, replaces what is there."
            }
            Self::ListFiles => "Lists a directory of /workspace.",
            Self::RemoveFiles => "Removes files of /workspace, or whole directories when recursive is true.",
            Self::BrowserNavigate => {
                "Opens a URL in the session's browser and answers a snapshot of the page. http://localhost:PORT is what programs of the session serve; beyond that the network is the session's (session_create)."
            }
            Self::BrowserNavigateBack => "Goes one page back and answers a snapshot.",
            Self::BrowserSnapshot => {
                "Answers what the page says and offers, one line per node, with refs that other browser tools take. Better than a picture for acting."
            }
            Self::BrowserClick => {
                "Clicks an element once it is visible, enabled and uncovered; answers a snapshot."
            }
            Self::BrowserType => "Replaces the text of a field; answers a snapshot.",
            Self::BrowserFillForm => {
                "Fills several fields, in order; stops at the first that fails. Answers a snapshot."
            }
            Self::BrowserSelectOption => "Chooses options of a list by their labels; answers a snapshot.",
            Self::BrowserPressKey => "Presses one key, with others held; answers a snapshot.",
            Self::BrowserTakeScreenshot => {
                "Takes a picture of the page and shows it, or stores it in /workspace. To act on the page use browser_snapshot."
            }
            Self::BrowserWaitFor => "Waits until a text is there or a time has passed; answers a snapshot.",
            Self::BrowserTabs => "Lists, opens, selects or closes tabs; answers the list.",
            Self::BrowserEvaluate => {
                "Runs JavaScript in the page and answers its value as JSON. It sees the page, not the session's files."
            }
            Self::BrowserHandleDialog => {
                "Answers the open alert, confirm or prompt. Nothing else works before."
            }
            Self::BrowserFileUpload => {
                "Gives files of /workspace to a page's file field, instead of those it had; answers a snapshot. \
                 Do not click anything first: the target is the field itself, by its ref, \
                 or by the selector input[type=file] where the page hides it behind a button."
            }
            Self::BrowserClose => {
                "Ends the session's browser with its pages and cookies; the session goes on."
            }
            Self::SessionCreate => {
                "Makes a new, empty session, the current one from then on. \
                 Only needed for a network, other limits or a second workspace: every other tool makes one when there is none."
            }
            Self::SessionGet => "Answers a session's state, limits, end of life and cost so far.",
            Self::SessionClose => {
                "Ends a session with all of its variables, files and tasks; answers what it cost."
            }
            Self::UsageGet => "Sums up what all sessions of this account used, and what it cost.",
        }
    }

    fn schemas(self) -> (Schema, Schema) {
        match self {
            Self::ExecuteCode => schemas::<code::ExecuteCode, code::Task>(),
            Self::RunCommand => schemas::<code::RunCommand, code::Task>(),
            Self::StartCommand => schemas::<code::StartCommand, code::Task>(),
            Self::GetTask => schemas::<code::GetTask, code::Task>(),
            Self::StopTask => schemas::<code::StopTask, code::Task>(),
            Self::ReadFiles => schemas::<files::ReadFiles, files::Contents>(),
            Self::WriteFiles => schemas::<files::WriteFiles, files::Written>(),
            Self::ListFiles => schemas::<files::ListFiles, files::Listing>(),
            Self::RemoveFiles => schemas::<files::RemoveFiles, files::Removed>(),
            Self::BrowserNavigate => schemas::<browser::Navigate, browser::Seen>(),
            Self::BrowserNavigateBack => schemas::<browser::OfSession, browser::Seen>(),
            Self::BrowserSnapshot => schemas::<browser::OfSession, browser::Seen>(),
            Self::BrowserClick => schemas::<browser::Click, browser::Seen>(),
            Self::BrowserType => schemas::<browser::Type, browser::Seen>(),
            Self::BrowserFillForm => schemas::<browser::FillForm, browser::Seen>(),
            Self::BrowserSelectOption => schemas::<browser::SelectOption, browser::Seen>(),
            Self::BrowserPressKey => schemas::<browser::PressKey, browser::Seen>(),
            Self::BrowserTakeScreenshot => schemas::<browser::TakeScreenshot, browser::Seen>(),
            Self::BrowserWaitFor => schemas::<browser::WaitFor, browser::Seen>(),
            Self::BrowserTabs => schemas::<browser::Tabs, browser::Seen>(),
            Self::BrowserEvaluate => schemas::<browser::Evaluate, browser::Seen>(),
            Self::BrowserHandleDialog => schemas::<browser::HandleDialog, browser::Seen>(),
            Self::BrowserFileUpload => schemas::<browser::FileUpload, browser::Seen>(),
            Self::BrowserClose => schemas::<browser::OfSession, browser::Closed>(),
            Self::SessionCreate => schemas::<session::SessionCreate, session::Session>(),
            Self::SessionGet => schemas::<session::SessionGet, session::Session>(),
            Self::SessionClose => schemas::<session::SessionClose, session::Session>(),
            Self::UsageGet => schemas::<session::UsageGet, session::Usage>(),
        }
    }

    /// As clients are told of it.
    fn told(self) -> model::Tool {
        let (input, output) = self.schemas();
        let hints = ToolAnnotations::with_title(self.title()).open_world(false);
        let hints = match self.effect() {
            Effect::Reads => hints.read_only(true),
            Effect::Adds => hints.read_only(false).destructive(false).idempotent(false),
            Effect::Changes(again) => hints.read_only(false).destructive(true).idempotent(again),
        };
        model::Tool::new(self.as_str(), self.description(), object(input))
            .with_title(self.title())
            .with_raw_output_schema(object(output))
            .with_annotations(hints)
    }
}

/// Every tool, as clients are told of it.
static TOLD: LazyLock<Vec<(Tool, model::Tool)>> =
    LazyLock::new(|| Tool::ALL.iter().map(|tool| (*tool, tool.told())).collect());

/// The schemas of a tool's arguments and of its answer.
fn schemas<I: JsonSchema, O: JsonSchema>() -> (Schema, Schema) {
    let settings = || {
        SchemaSettings::draft2020_12()
            .with(|settings| {
                // Not every client follows references, and the dialect is the protocol's own.
                settings.inline_subschemas = true;
                settings.meta_schema = None;
            })
            .with_transform(RecursiveTransform(Slim))
    };
    let output = settings().for_serialize().into_generator().into_root_schema_for::<O>();
    (settings().into_generator().into_root_schema_for::<I>(), output)
}

/// Takes away what only Rust means. A field that may be left out has one type: clients leave it out, and `null` is
/// neither asked for nor answered.
#[derive(Debug, Clone)]
struct Slim;

impl Transform for Slim {
    fn transform(&mut self, schema: &mut Schema) {
        let Some(schema) = schema.as_object_mut() else { return };
        for name in ["title", "format"] {
            // A property may be called so, too; its schema is an object.
            if schema.get(name).is_some_and(Value::is_string) {
                schema.remove(name);
            }
        }
        if schema.get("default").is_some_and(Value::is_null) {
            schema.remove("default");
        }
        if let Some(Value::Array(types)) = schema.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                schema.insert("type".into(), only);
            }
        }
    }
}

fn object(schema: Schema) -> Arc<JsonObject> {
    Arc::new(schema.as_object().cloned().unwrap_or_default())
}

/// The tools that a client chose, by the address that it calls.
#[derive(Debug, Clone)]
pub(super) struct Selection(Vec<Profile>);

impl Selection {
    /// `?tools=code,files`; all where nothing is said.
    pub(super) fn of(uri: &Uri) -> Result<Self, Problem> {
        let mut query = Query::of(uri)?;
        let mut chosen = Vec::new();
        match query.text("tools") {
            None => chosen.extend(Profile::ALL),
            Some(text) => {
                for word in text.split(',') {
                    match word.parse() {
                        Ok(profile) => chosen.push(profile),
                        Err(_) => query.wrong("tools", "must be some of: code, files, browser, session"),
                    }
                }
            }
        }
        query.finish()?;
        Ok(Self(chosen))
    }

    /// The tools, as clients are told of them.
    pub(super) fn tools(&self) -> Vec<model::Tool> {
        TOLD.iter().filter(|(tool, _)| self.has(*tool)).map(|(_, told)| told.clone()).collect()
    }

    /// The tool of this name; one that was not chosen is not there.
    pub(super) fn tool(&self, name: &str) -> Option<Tool> {
        name.parse().ok().filter(|tool| self.has(*tool))
    }

    fn has(&self, tool: Tool) -> bool {
        self.0.contains(&tool.profile())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(query: &str) -> Option<Vec<String>> {
        let selection = Selection::of(&format!("/mcp{query}").parse().unwrap()).ok()?;
        Some(selection.tools().iter().map(|tool| tool.name.to_string()).collect())
    }

    #[test]
    fn profiles_choose_tools() {
        assert_eq!(names("").unwrap().len(), Tool::ALL.len());
        assert_eq!(
            names("?tools=code").unwrap(),
            ["execute_code", "run_command", "start_command", "get_task", "stop_task"]
        );
        assert_eq!(names("?tools=session,files").unwrap().len(), 8);
        for wrong in ["?tools=", "?tools=code,shell", "?tools=code&tools=files", "?tool=code"] {
            assert!(names(wrong).is_none(), "{wrong}");
        }
        let code = Selection::of(&"/mcp?tools=code".parse().unwrap()).unwrap();
        assert_eq!(code.tool("execute_code"), Some(Tool::ExecuteCode));
        assert_eq!(code.tool("read_files"), None);
    }

    /// Every schema is an object without references, unions or Rust's own notes: what the pickiest client takes.
    #[test]
    fn schemas_are_plain() {
        for &tool in Tool::ALL {
            let (input, output) = tool.schemas();
            for schema in [input, output] {
                let text = serde_json::to_string(&schema).unwrap();
                assert_eq!(schema.get("type"), Some(&"object".into()), "{tool}");
                for word in ["$ref", "$defs", "anyOf", "oneOf", "\"null\"", "\"format\"", "[\"string\""] {
                    assert!(!text.contains(word), "{tool}: {word} in {text}");
                }
            }
            assert_eq!(tool.schemas().0.get("additionalProperties"), Some(&false.into()), "{tool}");
        }
    }
}
