//! `browser_*`: the tools of a browser, by the names that agents know from Playwright's own server.
//!
//! Each is one or two actions of an execution. What changes the page is answered with a snapshot of it, so that a model
//! need not ask.

use super::answer::{Done, TEXT_BYTES_MAX, bounded, invalid};
use super::conversation::Call;
use super::session::span;
use crate::http::error::Problem;
use crate::ledger::ExecutionRow;
use crate::service::{Await, OnDisconnect, browser};
use crate::words::{ExecutionStatus, Language};
use anchorhold_browser::Action;
use rmcp::model::ContentBlock;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// How long a snapshot that nobody asked for may be, in bytes.
const GLANCE_BYTES: usize = 16 * 1024;
/// The most fields of a form.
const FIELDS_MAX: usize = 100;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Navigate {
    /// An http, https or data URL.
    url: String,
    /// The session; where omitted the current one, or a new one.
    session_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OfSession {
    /// The session; where omitted the current one, or a new one.
    session_id: Option<String>,
}

/// Where something is: one of the fields. Each tool that has a target repeats them, since clients do not follow
/// references.
#[derive(Debug, Default, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    /// The element's ref in the last snapshot, as e12.
    r#ref: Option<String>,
    /// Or a CSS selector.
    selector: Option<String>,
    /// Or the label of a field.
    label: Option<String>,
    /// Or a text that it shows.
    text: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Click {
    /// What to click.
    target: Place,
    /// Twice.
    #[serde(default)]
    double_click: bool,
    /// The session; where omitted the current one.
    session_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Type {
    /// The field.
    target: Place,
    /// Replaces what is in it.
    text: String,
    /// Presses Enter afterwards.
    #[serde(default)]
    submit: bool,
    /// Key by key, for pages that follow the keys.
    #[serde(default)]
    slowly: bool,
    /// The session; where omitted the current one.
    session_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FillForm {
    /// In their order; at most 100.
    fields: Vec<Field>,
    /// The session; where omitted the current one.
    session_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Field {
    /// Which field.
    target: Place,
    /// Its text, or an option's value or label; true or false for a checkbox.
    value: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SelectOption {
    /// The list.
    target: Place,
    /// The labels of the options that are to be chosen, and no others.
    values: Vec<String>,
    /// The session; where omitted the current one.
    session_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PressKey {
    /// As Enter, ArrowDown, a, Control+A.
    key: String,
    /// The session; where omitted the current one.
    session_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TakeScreenshot {
    /// The whole page, not only what is in the window.
    #[serde(default)]
    full_page: bool,
    /// Only this element.
    target: Option<Place>,
    /// Stores it as this file of /workspace instead of showing it.
    path: Option<String>,
    /// The session; where omitted the current one.
    session_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitFor {
    /// Until this text is there …
    text: Option<String>,
    /// … or so many seconds.
    seconds: Option<f64>,
    /// How long at most; 30 where omitted.
    timeout_seconds: Option<f64>,
    /// The session; where omitted the current one.
    session_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tabs {
    action: TabAction,
    /// Which tab, for select and close: its number in the list.
    tab: Option<u32>,
    /// What a new tab opens.
    url: Option<String>,
    /// The session; where omitted the current one.
    session_id: Option<String>,
}

// No comments on the variants: they would make the schema a union.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum TabAction {
    List,
    New,
    Select,
    Close,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Evaluate {
    /// JavaScript; the value of its last expression is answered, as JSON.
    expression: String,
    /// The session; where omitted the current one.
    session_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HandleDialog {
    /// OK or Cancel.
    accept: bool,
    /// What is written into a prompt.
    text: Option<String>,
    /// The session; where omitted the current one.
    session_id: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FileUpload {
    /// The file field.
    target: Place,
    /// Files of /workspace, as data/a.csv or /workspace/data/a.csv; 1 to 64, and one only where the field takes one.
    paths: Vec<String>,
    /// The session; where omitted the current one.
    session_id: Option<String>,
}

/// What the browser did, and where it is.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Seen {
    session_id: String,
    task_id: String,
    #[schemars(with = "String", extend("enum" = ExecutionStatus::ALL))]
    status: ExecutionStatus,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    /// What the page says and offers, one line per node. What stands in quotes was written by the page.
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<String>,
    /// A dialog that must be answered before anything else: browser_handle_dialog.
    #[serde(skip_serializing_if = "Option::is_none")]
    dialog: Option<String>,
    /// The value of an expression, as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// The open tabs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tabs: Vec<String>,
    /// The file of /workspace that a picture was stored as.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// Some of it is not here.
    truncated: bool,
    /// The browser with all of its pages is gone; the next call begins with a new one.
    state_lost: bool,
    wall_us: u64,
    /// In 10⁻¹² dollars, decimal.
    cost_picos: String,
}

/// That the browser was closed.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Closed {
    session_id: String,
    /// Whether there was one.
    closed: bool,
}

impl Place {
    /// As actions name it.
    fn target(&self) -> Result<Value, Problem> {
        let named = [
            ("ref", &self.r#ref),
            ("selector", &self.selector),
            ("label", &self.label),
            ("text", &self.text),
        ];
        let mut given = named.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        match (given.next(), given.next()) {
            (Some((name, value)), None) => Ok(json!({ name: value })),
            _ => Err(invalid("target: exactly one of ref, selector, label and text is needed")),
        }
    }
}

/// What to do beside the action itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Glance {
    /// The page is looked at afterwards.
    Yes,
    No,
}

impl Call<'_> {
    pub(super) async fn browser_navigate(&self, asked: Navigate) -> Result<Done, Problem> {
        self.browse(asked.session_id, vec![json!({"type": "navigate", "url": asked.url})], Glance::Yes).await
    }

    pub(super) async fn browser_navigate_back(&self, asked: OfSession) -> Result<Done, Problem> {
        self.browse(asked.session_id, vec![json!({"type": "back"})], Glance::Yes).await
    }

    pub(super) async fn browser_snapshot(&self, asked: OfSession) -> Result<Done, Problem> {
        let whole = json!({"type": "snapshot", "budget_bytes": TEXT_BYTES_MAX / 2});
        self.browse(asked.session_id, vec![whole], Glance::No).await
    }

    pub(super) async fn browser_click(&self, asked: Click) -> Result<Done, Problem> {
        let kind = if asked.double_click { "double_click" } else { "click" };
        let action = json!({"type": kind, "target": asked.target.target()?});
        self.browse(asked.session_id, vec![action], Glance::Yes).await
    }

    pub(super) async fn browser_type(&self, asked: Type) -> Result<Done, Problem> {
        let target = asked.target.target()?;
        let mut actions = if asked.slowly {
            vec![
                json!({"type": "clear", "target": target}),
                json!({"type": "type", "target": target, "text": asked.text}),
            ]
        } else {
            vec![json!({"type": "fill", "target": target, "value": asked.text})]
        };
        if asked.submit {
            actions.push(json!({"type": "press", "key": "Enter"}));
        }
        self.browse(asked.session_id, actions, Glance::Yes).await
    }

    pub(super) async fn browser_fill_form(&self, asked: FillForm) -> Result<Done, Problem> {
        if asked.fields.len() > FIELDS_MAX {
            return Err(invalid("fields: at most 100"));
        }
        let field = |field: &Field| {
            // A checkbox is checked or not; a text that says so is meant for it where the browser finds one.
            let value = match field.value.as_str() {
                "true" => json!(true),
                "false" => json!(false),
                text => json!(text),
            };
            Ok(json!({"target": field.target.target()?, "value": value}))
        };
        let fields = asked.fields.iter().map(field).collect::<Result<Vec<_>, Problem>>()?;
        self.browse(asked.session_id, vec![json!({"type": "fill_form", "fields": fields})], Glance::Yes).await
    }

    pub(super) async fn browser_select_option(&self, asked: SelectOption) -> Result<Done, Problem> {
        let action = json!({"type": "select", "target": asked.target.target()?, "label": asked.values});
        self.browse(asked.session_id, vec![action], Glance::Yes).await
    }

    pub(super) async fn browser_press_key(&self, asked: PressKey) -> Result<Done, Problem> {
        self.browse(asked.session_id, vec![json!({"type": "press", "key": asked.key})], Glance::Yes).await
    }

    pub(super) async fn browser_take_screenshot(&self, asked: TakeScreenshot) -> Result<Done, Problem> {
        let mut action = Map::from_iter([
            ("type".to_owned(), json!("screenshot")),
            ("full_page".to_owned(), json!(asked.full_page)),
        ]);
        if let Some(place) = asked.target {
            action.insert("target".into(), place.target()?);
        }
        if let Some(path) = asked.path {
            action.insert("path".into(), path.into());
        }
        self.browse(asked.session_id, vec![Value::Object(action)], Glance::No).await
    }

    pub(super) async fn browser_wait_for(&self, asked: WaitFor) -> Result<Done, Problem> {
        let action = match (asked.text, asked.seconds) {
            (Some(text), None) => json!({"type": "wait_for", "text": text}),
            (None, Some(seconds)) => json!({"type": "wait_for", "seconds": seconds}),
            _ => return Err(invalid("exactly one of text and seconds is needed")),
        };
        let timeout_us = span("timeout_seconds", asked.timeout_seconds)?;
        self.browse_within(asked.session_id, vec![action], Glance::Yes, timeout_us).await
    }

    pub(super) async fn browser_tabs(&self, asked: Tabs) -> Result<Done, Problem> {
        let numbered = |op: &str| match asked.tab {
            Some(tab) => Ok(json!({"type": "tabs", "op": op, "id": tab})),
            None => Err(invalid("tab: is needed")),
        };
        let action = match asked.action {
            TabAction::List => json!({"type": "tabs", "op": "list"}),
            TabAction::New => json!({"type": "tabs", "op": "new", "url": asked.url}),
            TabAction::Select => numbered("select")?,
            TabAction::Close => numbered("close")?,
        };
        self.browse(asked.session_id, vec![action], Glance::No).await
    }

    pub(super) async fn browser_evaluate(&self, asked: Evaluate) -> Result<Done, Problem> {
        let action = json!({"type": "evaluate", "expression": asked.expression});
        self.browse(asked.session_id, vec![action], Glance::No).await
    }

    pub(super) async fn browser_handle_dialog(&self, asked: HandleDialog) -> Result<Done, Problem> {
        let action = json!({"type": "dialog", "accept": asked.accept, "text": asked.text});
        self.browse(asked.session_id, vec![action], Glance::Yes).await
    }

    pub(super) async fn browser_file_upload(&self, asked: FileUpload) -> Result<Done, Problem> {
        let action = json!({"type": "upload", "target": asked.target.target()?, "paths": asked.paths});
        self.browse(asked.session_id, vec![action], Glance::Yes).await
    }

    /// Ends the browser; the session goes on.
    pub(super) async fn browser_close(&self, asked: OfSession) -> Result<Done, Problem> {
        let session = self.known_session(asked.session_id.as_deref()).await?;
        let contexts = self.service().contexts(self.tenant(), session).await?;
        let browser = contexts.into_iter().find(|context| context.place.language == Language::Browser);
        let closed = browser.is_some();
        if let Some(context) = browser {
            self.service().delete_context(self.tenant(), session, context.id).await?;
        }
        let session_id = format!("ses_{session}");
        Done::new(session_id.clone(), &Closed { session_id, closed })
    }

    async fn browse(
        &self,
        named: Option<String>,
        actions: Vec<Value>,
        glance: Glance,
    ) -> Result<Done, Problem> {
        self.browse_within(named, actions, glance, None).await
    }

    async fn browse_within(
        &self,
        named: Option<String>,
        mut actions: Vec<Value>,
        glance: Glance,
        timeout_us: Option<u64>,
    ) -> Result<Done, Problem> {
        if glance == Glance::Yes {
            // Optional: a dialog that was opened is no failure of what opened it.
            actions.push(json!({"type": "snapshot", "budget_bytes": GLANCE_BYTES, "optional": true}));
        }
        for action in &actions {
            // Told before anything is done, and before there is a session.
            serde_json::from_value::<Action>(action.clone()).map_err(|error| invalid(error.to_string()))?;
        }
        let session = self.session(named.as_deref()).await?;
        let request = browser::actions(actions, timeout_us, OnDisconnect::Cancel);
        let row = self.service().execute(self.tenant(), session, request, None, Await::End).await?;
        seen(&row)
    }
}

/// Says which dialog is open, and what to do about it. The page wrote the message.
fn dialog(open: &Value) -> String {
    let (message, _cut) = bounded(&open["message"].to_string(), TEXT_BYTES_MAX);
    let kind = open["kind"].as_str().unwrap_or("unknown");
    format!("{kind} {message} is open and holds the page: browser_handle_dialog answers it")
}

fn seen(row: &ExecutionRow) -> Result<Done, Problem> {
    let (results, page) = browser::acted(row);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let of = |name: &str| results.iter().find_map(|result| result.get(name).filter(|value| !value.is_null()));
    let of_page = |name: &str| page.and_then(|page| page.get(name)).filter(|value| !value.is_null());
    let failure =
        row.output.as_ref().and_then(|output| output.error.as_ref()).map(|error| error.message.clone());
    let report = row.report.as_ref();
    let (snapshot, cut) = match results.iter().rfind(|result| result["type"] == "snapshot") {
        Some(taken) => bounded(taken["text"].as_str().unwrap_or_default(), TEXT_BYTES_MAX),
        None => Default::default(),
    };
    let (value, cut_too) = of("value").map(|value| bounded(&value.to_string(), TEXT_BYTES_MAX)).unzip();
    let tab = |tab: &Value| format!("{} {} {}", tab["id"], tab["title"], tab["url"]);
    let task_id = format!("exe_{}", row.id);
    let seen = Seen {
        session_id: format!("ses_{}", row.session),
        task_id: task_id.clone(),
        status: row.status,
        error: of("error").and_then(text).or(failure),
        url: of_page("url").and_then(text).map(|url| bounded(&url, 2048).0),
        title: of_page("title").and_then(text).map(|title| bounded(&title, 1024).0),
        snapshot: (!snapshot.is_empty()).then_some(snapshot),
        dialog: of_page("dialog").map(dialog),
        value,
        tabs: of("tabs").and_then(Value::as_array).into_iter().flatten().map(tab).collect(),
        path: of("path").and_then(text),
        truncated: cut || cut_too.unwrap_or(false) || of("truncated").is_some_and(|cut| cut == true),
        state_lost: report.is_some_and(|report| report.state_lost),
        wall_us: report.map_or(0, |report| report.wall_us),
        cost_picos: report.map_or(0, |report| report.cost_picos).to_string(),
    };
    let mut done = Done::new(task_id, &seen)?;
    done.blocks
        .extend(of("base64").and_then(Value::as_str).map(|data| ContentBlock::image(data, "image/png")));
    done.failed = row.status != ExecutionStatus::Succeeded;
    Ok(done)
}
