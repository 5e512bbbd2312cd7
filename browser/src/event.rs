//! The events we listen to, each with the fields we need.
//!
//! These are not chromiumoxide's types: those demand every field that the protocol knew when they were made, and Chromium
//! moves (`Network.requestWillBeSentExtraInfo` of Chromium 156 no longer fits, nor would a new kind of dialog). An event
//! that is lost is a page that hangs, so here what is not needed is not looked at.

use chromiumoxide_cdp::cdp::browser_protocol::network::LoaderId;
use chromiumoxide_cdp::cdp::browser_protocol::page::FrameId;
use chromiumoxide_cdp::cdp::browser_protocol::target::{SessionId, TargetId};
use serde::Deserialize;

/// What Chromium reports, as far as it matters here.
#[derive(Debug)]
pub(crate) enum Seen {
    Attached(Attached),
    Detached { session: SessionId },
    Crashed,
    Recovered,
    Lifecycle(Lifecycle),
    MovedWithin { frame: FrameId },
    Asked { frame: FrameId },
    Started { frame: FrameId },
    Stopped { frame: FrameId },
    DialogOpened(DialogOpened),
    DialogClosed,
    WorldMade(World),
    WorldGone { unique: String },
    WorldsGone,
    Response(Response),
    Frame(Frame),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attached {
    pub session_id: SessionId,
    pub target_info: TargetInfo,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TargetInfo {
    pub target_id: TargetId,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub url: String,
    #[serde(default)]
    pub title: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Lifecycle {
    pub frame_id: FrameId,
    pub loader_id: LoaderId,
    pub name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DialogOpened {
    #[serde(rename = "type")]
    pub kind: String,
    pub message: String,
}

/// An execution context: where a document's scripts run, the page's or ours.
#[derive(Debug)]
pub(crate) struct World {
    pub frame: FrameId,
    pub name: String,
    pub id: i64,
    pub unique: String,
}

/// The answer to a request for a document.
#[derive(Debug)]
pub(crate) struct Response {
    pub frame: FrameId,
    pub loader: LoaderId,
    pub status: i64,
}

/// A picture of a page that is watched.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Frame {
    pub data: String,
    pub metadata: FrameMetadata,
    /// The picture's number: Chromium calls it so.
    pub session_id: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FrameMetadata {
    pub device_width: f64,
    pub device_height: f64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InSession {
    session_id: SessionId,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfFrame {
    frame_id: FrameId,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    frame_id: FrameId,
    disposition: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Started {
    frame_id: FrameId,
    navigation_type: String,
}

#[derive(Deserialize)]
struct ContextCreated {
    context: Context,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Context {
    id: i64,
    unique_id: String,
    name: String,
    aux_data: ContextData,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContextData {
    frame_id: FrameId,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContextDestroyed {
    execution_context_unique_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResponseReceived {
    #[serde(rename = "type")]
    kind: String,
    frame_id: Option<FrameId>,
    loader_id: LoaderId,
    response: ResponseHead,
}

#[derive(Deserialize)]
struct ResponseHead {
    status: i64,
}

impl Seen {
    /// Reads an event; `None` for the many that nobody needs.
    pub(crate) fn read(method: &str, params: &str) -> Result<Option<Seen>, serde_json::Error> {
        use serde_json::from_str;
        Ok(Some(match method {
            "Target.attachedToTarget" => Seen::Attached(from_str(params)?),
            "Target.detachedFromTarget" => {
                Seen::Detached { session: from_str::<InSession>(params)?.session_id }
            }
            "Inspector.targetCrashed" => Seen::Crashed,
            "Inspector.targetReloadedAfterCrash" => Seen::Recovered,
            "Page.lifecycleEvent" => Seen::Lifecycle(from_str(params)?),
            "Page.navigatedWithinDocument" => {
                Seen::MovedWithin { frame: from_str::<OfFrame>(params)?.frame_id }
            }
            "Page.frameRequestedNavigation" => match from_str(params)? {
                Asked { frame_id, disposition } if disposition == "currentTab" => {
                    Seen::Asked { frame: frame_id }
                }
                Asked { .. } => return Ok(None),
            },
            "Page.frameStartedNavigating" => match from_str(params)? {
                Started { navigation_type, .. }
                    if navigation_type.to_lowercase().contains("samedocument") =>
                {
                    return Ok(None);
                }
                Started { frame_id, .. } => Seen::Started { frame: frame_id },
            },
            "Page.screencastFrame" => Seen::Frame(from_str(params)?),
            "Page.frameStoppedLoading" => Seen::Stopped { frame: from_str::<OfFrame>(params)?.frame_id },
            "Page.javascriptDialogOpening" => Seen::DialogOpened(from_str(params)?),
            "Page.javascriptDialogClosed" => Seen::DialogClosed,
            "Runtime.executionContextCreated" => {
                let Context { id, unique_id, name, aux_data } = from_str::<ContextCreated>(params)?.context;
                Seen::WorldMade(World { frame: aux_data.frame_id, name, id, unique: unique_id })
            }
            "Runtime.executionContextDestroyed" => {
                Seen::WorldGone { unique: from_str::<ContextDestroyed>(params)?.execution_context_unique_id }
            }
            "Runtime.executionContextsCleared" => Seen::WorldsGone,
            "Network.responseReceived" => {
                let ResponseReceived { kind, frame_id, loader_id, response } = from_str(params)?;
                match frame_id {
                    Some(frame) if kind == "Document" => {
                        Seen::Response(Response { frame, loader: loader_id, status: response.status })
                    }
                    _ => return Ok(None),
                }
            }
            _ => return Ok(None),
        }))
    }
}
