//! From a target to a point that can be clicked: which frame, which element, whether it can be acted on, and where it is in
//! the page's window.
//!
//! The questions about one document are asked in it (`agent.js`). Here, frames are put together: a point in a frame is moved
//! by the position of the element that holds the frame, and must be met in every document on the way up. Frames that are
//! scaled or turned by a CSS transform are not supported: their content is looked for where it would be without.

use crate::action::Target;
use crate::connection::CallError;
use crate::outcome::{Failure, Obstacle};
use crate::run::{Place, Step};
use crate::script::Evaluated;
use crate::state::WorldId;
use chromiumoxide_cdp::cdp::browser_protocol::dom;
use chromiumoxide_cdp::cdp::browser_protocol::page::FrameId;
use chromiumoxide_cdp::cdp::browser_protocol::target::SessionId;
use chromiumoxide_cdp::cdp::js_protocol::runtime;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::{Duration, Instant};

/// What must be true of an element before an action. Playwright's list.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Needs {
    /// A label stands for its field.
    control: bool,
    visible: bool,
    enabled: bool,
    editable: bool,
    /// The same place in two frames of animation; also scrolls it into view.
    stable: bool,
    /// Nothing else would get a click there.
    events: bool,
}

const NOTHING: Needs =
    Needs { control: false, visible: false, enabled: false, editable: false, stable: false, events: false };

impl Needs {
    pub(crate) const CLICK: Needs =
        Needs { visible: true, enabled: true, stable: true, events: true, ..NOTHING };
    pub(crate) const HOVER: Needs = Needs { visible: true, stable: true, events: true, ..NOTHING };
    pub(crate) const CHECK: Needs = Needs { control: true, ..Needs::CLICK };
    pub(crate) const FILL: Needs =
        Needs { control: true, visible: true, enabled: true, editable: true, ..NOTHING };
    pub(crate) const SELECT: Needs = Needs { control: true, visible: true, enabled: true, ..NOTHING };
    pub(crate) const FOCUS: Needs = Needs { control: true, ..NOTHING };
    pub(crate) const SHOWN: Needs = Needs { visible: true, stable: true, ..NOTHING };
    pub(crate) const SEEN: Needs = Needs { visible: true, ..NOTHING };
    pub(crate) const PRESENT: Needs = NOTHING;
}

/// An element that was found; its document remembers it until the next search.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub place: Place,
    /// Where to click, in the page's window.
    pub x: f64,
    pub y: f64,
    /// Its box, in the page's window.
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
}

/// A document's answer to `locate`.
#[derive(Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
enum Verdict {
    Ready { x: f64, y: f64, left: f64, top: f64, width: f64, height: f64 },
    Missing,
    Ambiguous { count: u32, why: String },
    Invalid { why: String },
    Hidden,
    Moving,
    Disabled,
    ReadOnly,
    Outside,
    Covered { why: String },
}

impl Verdict {
    fn found(self, place: &Place) -> Result<Found, Obstacle> {
        Err(match self {
            Verdict::Ready { x, y, left, top, width, height } => {
                return Ok(Found { place: place.clone(), x, y, left, top, width, height });
            }
            Verdict::Missing => Obstacle::Missing,
            Verdict::Ambiguous { count, why } => Obstacle::Ambiguous { count, examples: why },
            Verdict::Invalid { why } => Obstacle::Invalid(why),
            Verdict::Hidden => Obstacle::Hidden,
            Verdict::Moving => Obstacle::Moving,
            Verdict::Disabled => Obstacle::Disabled,
            Verdict::ReadOnly => Obstacle::ReadOnly,
            Verdict::Outside => Obstacle::Outside,
            Verdict::Covered { why } => Obstacle::Covered(why),
        })
    }
}

/// Where the element stands that holds a frame.
#[derive(Debug, Deserialize)]
pub(crate) struct Owner {
    /// Its number, 0 when it has none.
    pub r#ref: u32,
    left: f64,
    top: f64,
    moving: bool,
}

/// A frame of the selected tab.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub place: Place,
    /// The index of the frame it is in.
    pub parent: Option<usize>,
}

/// Pauses between attempts; the last one repeats.
const PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(20), Duration::from_millis(50), Duration::from_millis(100)];
/// Frames of a page that are looked into.
const MAX_FRAMES: usize = 256;

/// Why an attempt to find a target gave nothing.
enum Miss {
    /// Worth another attempt, in most cases.
    Obstacle(Obstacle),
    Failure(Failure),
}

impl From<Failure> for Miss {
    fn from(failure: Failure) -> Self {
        Miss::Failure(failure)
    }
}

impl Step<'_> {
    /// Waits until the target can be acted on.
    pub(crate) async fn locate(&mut self, target: &Target, needs: Needs) -> Result<Found, Failure> {
        let mut last = Obstacle::Silent;
        // How often the target was in sight and covered: what covers it may not follow when it is scrolled elsewhere.
        let mut covered = 0;
        for attempt in 0.. {
            match self.attempt(target, needs, covered).await {
                Ok(found) => return Ok(found),
                Err(Miss::Failure(Failure::Call(CallError::Deadline))) => break,
                Err(Miss::Failure(failure)) => return Err(failure),
                Err(Miss::Obstacle(obstacle)) => last = obstacle,
            }
            if matches!(last, Obstacle::Ambiguous { .. } | Obstacle::Invalid(_) | Obstacle::Stale) {
                break;
            }
            covered += u32::from(matches!(last, Obstacle::Covered(_) | Obstacle::Outside));
            let pause = PAUSES[PAUSES.len().min(attempt + 1) - 1];
            if Instant::now() + pause >= self.deadline {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        Err(Failure::Target { target: target.to_string(), obstacle: last })
    }

    async fn attempt(&mut self, target: &Target, needs: Needs, covered: u32) -> Result<Found, Miss> {
        let call = format!("anchorhold.locate({}, {}, {covered})", wanted(target), json!(needs));
        let page = self.page()?;
        if let Target::Ref(number) = target {
            let place = self.view.place(*number).ok_or(Miss::Obstacle(Obstacle::Stale))?.clone();
            return match self.look_in(&place, &call, needs).await {
                Err(Miss::Obstacle(Obstacle::Missing)) => Err(Miss::Obstacle(Obstacle::Stale)),
                other => other,
            };
        }
        let mut looked = self.look_in(&page, &call, needs).await;
        if matches!(looked, Err(Miss::Obstacle(Obstacle::Missing))) {
            for frame in self.frames().await?.iter().skip(1) {
                looked = self.look_in(&frame.place, &call, needs).await;
                if !matches!(looked, Err(Miss::Obstacle(Obstacle::Missing))) {
                    break;
                }
            }
        }
        looked
    }

    /// Looks in one document.
    async fn look_in(&mut self, place: &Place, call: &str, needs: Needs) -> Result<Found, Miss> {
        let verdict = match self.ask(place, call).await {
            Ok(verdict) => verdict,
            // A document that has just been replaced, or a frame that crashed.
            Err(Failure::Call(CallError::Refused { .. } | CallError::Detached)) => Verdict::Missing,
            Err(Failure::Call(CallError::Crashed)) if *place != self.page()? => Verdict::Missing,
            Err(failure) => return Err(failure.into()),
        };
        let found = verdict.found(place).map_err(Miss::Obstacle)?;
        if *place == self.page()? { Ok(found) } else { self.lift(found, needs).await }
    }

    /// Moves a point of a frame into the page's window.
    async fn lift(&mut self, mut found: Found, needs: Needs) -> Result<Found, Miss> {
        let frames = self.frames().await?;
        let mut at = frames.iter().position(|frame| frame.place == found.place);
        while let Some(index) = at {
            let Some(parent) = frames[index].parent else { return Ok(found) };
            let above = &frames[parent].place;
            let owner = self.owner(above, &frames[index].place.frame, "steadyOwner").await?;
            if needs.stable && owner.moving {
                return Err(Miss::Obstacle(Obstacle::Moving));
            }
            (found.x, found.y) = (found.x + owner.left, found.y + owner.top);
            (found.left, found.top) = (found.left + owner.left, found.top + owner.top);
            if needs.events {
                let call = format!("anchorhold.cover({}, {})", found.x, found.y);
                if let Some(why) = self.ask(above, &call).await? {
                    return Err(Miss::Obstacle(Obstacle::Covered(why)));
                }
            }
            at = Some(parent);
        }
        Err(Miss::Obstacle(Obstacle::Missing))
    }

    /// Asks the element in `above` that holds a frame.
    pub(crate) async fn owner(
        &mut self,
        above: &Place,
        frame: &FrameId,
        what: &str,
    ) -> Result<Owner, Failure> {
        let WorldId { id, .. } = self.world(above).await?;
        let connection = &self.link.connection;
        let (session, deadline) = (Some(&above.session), self.deadline);
        let owner = connection.call(session, &dom::GetFrameOwnerParams::new(frame.clone()), deadline).await?;
        let in_our_world = dom::ResolveNodeParams {
            node_id: None,
            backend_node_id: Some(owner.backend_node_id),
            object_group: None,
            execution_context_id: Some(runtime::ExecutionContextId::new(id)),
        };
        let element = connection.call(session, &in_our_world, deadline).await?.object;
        let call = runtime::CallFunctionOnParams {
            object_id: element.object_id,
            return_by_value: Some(true),
            await_promise: Some(true),
            ..runtime::CallFunctionOnParams::new(format!("function () {{ return anchorhold.{what}(this); }}"))
        };
        let method = runtime::CallFunctionOnParams::IDENTIFIER;
        let answer: Evaluated = connection.call_as(session, method, &call, deadline).await?;
        answer.read()
    }

    /// The frames of the selected tab, the page itself first, a parent always before its children.
    pub(crate) async fn frames(&self) -> Result<Vec<Frame>, Failure> {
        let page = self.page()?;
        let sessions: Vec<SessionId> = {
            let state = self.link.state();
            let tab = state.tabs.iter().find(|tab| tab.session == page.session);
            tab.into_iter()
                .flat_map(|tab| std::iter::once(&tab.session).chain(&tab.frames))
                .cloned()
                .collect()
        };
        let mut frames: Vec<Frame> = Vec::new();
        for session in sessions {
            let tree: Result<FrameTree, _> = self
                .link
                .connection
                .call_as(Some(&session), "Page.getFrameTree", json!({}), self.deadline)
                .await;
            match tree {
                Ok(FrameTree { frame_tree }) => collect(&mut frames, &session, frame_tree),
                // A frame that is just going away.
                Err(CallError::Detached | CallError::Refused { .. } | CallError::Crashed)
                    if session != page.session => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(frames)
    }
}

fn wanted(target: &Target) -> serde_json::Value {
    match target {
        Target::Ref(number) => json!({ "ref": number }),
        Target::Selector(selector) => json!({ "selector": selector }),
        Target::Role { role, name } => json!({ "role": role, "name": name }),
        Target::Text(text) => json!({ "text": text }),
        Target::Label(label) => json!({ "label": label }),
        // Points are not looked for; see `Step::point`.
        Target::Point { x, y } => json!({ "x": x, "y": y }),
    }
}

/// `Page.getFrameTree`'s answer, as far as it is needed: chromiumoxide's type refuses a frame that lacks a newer field.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FrameTree {
    frame_tree: Branch,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Branch {
    frame: Leaf,
    #[serde(default)]
    child_frames: Vec<Branch>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Leaf {
    id: FrameId,
    parent_id: Option<FrameId>,
}

fn collect(frames: &mut Vec<Frame>, session: &SessionId, branch: Branch) {
    let Branch { frame: Leaf { id, parent_id }, child_frames } = branch;
    if frames.len() == MAX_FRAMES {
        return;
    }
    let parent = parent_id.and_then(|parent| frames.iter().position(|frame| frame.place.frame == parent));
    if parent.is_none() && !frames.is_empty() {
        return;
    }
    frames.push(Frame { place: Place { session: session.clone(), frame: id }, parent });
    for child in child_frames {
        collect(frames, session, child);
    }
}
