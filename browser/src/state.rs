//! What is known of the browser, from its events alone. Pure: no clock, no pipe; what is to be done about an event is
//! returned as [`Effect`]s.
//!
//! ```text
//!   attached ──► Open ──crashed──► Crashed ──reloaded──► Open
//!                  │ ▲                │
//!   dialog opened  ▼ │ answered       │ detached
//!               Blocked ──detached──► gone ◄┘
//! ```
//!
//! A document of a tab is known by its loader. It is *committed* when the tab shows it; what never commits (a download, an
//! answer 204) leaves the document before it in place.

use crate::connection::CallError;
use crate::event::{Attached, Lifecycle, Response, Seen, World};
use crate::window::Sizing;
use chromiumoxide_cdp::cdp::browser_protocol::network::LoaderId;
use chromiumoxide_cdp::cdp::browser_protocol::page::FrameId;
use chromiumoxide_cdp::cdp::browser_protocol::target::{SessionId, TargetId};
use std::collections::{HashMap, VecDeque};

/// Tabs that a browser may have open; what a page opens beyond is closed again.
pub const MAX_TABS: usize = 32;
/// Frames in processes of their own that are followed per tab; the rest of a page that has more is not seen.
const MAX_FRAME_SESSIONS: usize = 128;
/// Documents of a tab that are remembered, to answer how a navigation ended that was overtaken by another.
const DOCUMENTS: usize = 8;
/// Worlds that are remembered: one per document and frame. A page can make frames without end.
const MAX_WORLDS: usize = 4096;
const DIALOG_CHARS: usize = 2000;

/// The isolated world that our script lives in.
pub(crate) const WORLD: &str = "anchorhold";

/// A tab, as long as the browser lives; numbers are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct TabId(pub u32);

/// A dialog that a page has opened and that holds the page until it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialog {
    /// `alert`, `confirm` or `prompt`. (`beforeunload` is always accepted.)
    pub kind: String,
    /// What the page says, at most 2,000 characters.
    pub message: String,
}

/// How far a document has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Progress {
    /// Answered, but not shown by the tab.
    Answered,
    Committed,
    Parsed,
    Loaded,
}

#[derive(Debug)]
pub(crate) struct Document {
    pub loader: LoaderId,
    /// The answer's HTTP status; none for documents that did not come by HTTP.
    pub status: Option<u16>,
    pub progress: Progress,
    /// No request for 500 ms. May come before or after `Loaded`.
    pub idle: bool,
}

#[derive(Debug)]
pub(crate) struct Tab {
    pub id: TabId,
    pub target: TargetId,
    pub session: SessionId,
    /// Sessions of the tab's frames that have a process of their own.
    pub frames: Vec<SessionId>,
    pub crashed: bool,
    pub dialog: Option<Dialog>,
    /// How many dialogs were closed: the next may be open before anybody looks.
    pub dialogs_closed: u32,
    /// Oldest first.
    pub documents: VecDeque<Document>,
    pub journey: Journey,
    /// How often the URL changed within a document.
    pub moves: u64,
}

impl Tab {
    /// The main frame has the same id as its target, in every Chromium so far.
    pub(crate) fn main_frame(&self) -> FrameId {
        FrameId::from(self.target.as_ref().to_owned())
    }

    /// The document that the tab shows.
    pub(crate) fn shown(&self) -> Option<&Document> {
        self.documents.iter().rev().find(|document| document.progress > Progress::Answered)
    }

    fn document(&mut self, loader: &LoaderId) -> &mut Document {
        let known = self.documents.iter().position(|document| document.loader == *loader);
        let index = known.unwrap_or_else(|| {
            if self.documents.len() == DOCUMENTS {
                self.documents.pop_front();
            }
            let loader = loader.clone();
            self.documents.push_back(Document {
                loader,
                status: None,
                progress: Progress::Answered,
                idle: false,
            });
            self.documents.len() - 1
        });
        &mut self.documents[index]
    }

    fn advance(&mut self, lifecycle: &Lifecycle) {
        let document = self.document(&lifecycle.loader_id);
        let progress = match lifecycle.name.as_str() {
            "init" | "commit" => Progress::Committed,
            "DOMContentLoaded" => Progress::Parsed,
            "load" => Progress::Loaded,
            "networkIdle" => {
                document.idle = true;
                return;
            }
            _ => return,
        };
        document.progress = document.progress.max(progress);
        if progress == Progress::Loaded {
            self.journey = Journey::Resting;
        }
    }
}

/// Whether a tab is on its way to another document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Journey {
    Resting,
    /// The page has asked for it. Nothing need come of it: the URL may be a mail address.
    Asked,
    /// The browser has begun; it will load or stop.
    Begun,
}

/// What is to be done about an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Make a new page or frame tell us what it does.
    Prepare(SessionId),
    /// Let something run that is not followed.
    Resume(SessionId),
    /// Close a page that is too many. The page that opened it stands still until it has run.
    Close(SessionId, TargetId),
    /// Nobody is asked whether a page may be left.
    AcceptDialog(SessionId),
    /// End the calls of a session that will not answer.
    Fail(SessionId, CallError),
}

/// Which script context a frame's document has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WorldId {
    /// Unique in its process for now.
    pub id: i64,
    /// Unique for ever.
    pub unique: String,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// In the order of their opening.
    pub tabs: Vec<Tab>,
    /// The tab that actions go to.
    pub current: Option<TabId>,
    /// What is done about the windows of new tabs.
    pub sizing: Option<Sizing>,
    last_tab: u32,
    worlds: HashMap<(SessionId, FrameId), WorldId>,
}

impl State {
    pub(crate) fn tab(&self, id: TabId) -> Option<&Tab> {
        self.tabs.iter().find(|tab| tab.id == id)
    }

    /// What is done about the window of this page, which is new.
    pub(crate) fn sizing_of(&self, page: &SessionId) -> Option<Sizing> {
        self.sizing.filter(|_| self.tabs.iter().any(|tab| tab.session == *page))
    }

    pub(crate) fn world(&self, session: &SessionId, frame: &FrameId) -> Option<&WorldId> {
        self.worlds.get(&(session.clone(), frame.clone()))
    }

    /// Takes note of an event of a session, or of the browser itself.
    pub(crate) fn apply(&mut self, session: Option<&str>, seen: Seen) -> Vec<Effect> {
        let session = session.map(|id| SessionId::from(id.to_owned()));
        match seen {
            Seen::Attached(attached) => return self.attached(session.as_ref(), attached),
            Seen::Detached { session } => return self.detached(&session),
            seen => {
                if let Some(session) = session {
                    return self.in_session(&session, seen);
                }
            }
        }
        Vec::new()
    }

    fn in_session(&mut self, session: &SessionId, seen: Seen) -> Vec<Effect> {
        match seen {
            Seen::WorldMade(world) => self.world_made(session, world),
            Seen::WorldGone { unique } => {
                self.worlds.retain(|(of, _), world| of != session || world.unique != unique);
            }
            Seen::Crashed => return self.crashed(session),
            Seen::WorldsGone => self.worlds.retain(|(of, _), _| of != session),
            seen => {
                if let Some(tab) = self.tabs.iter_mut().find(|tab| tab.session == *session) {
                    return in_tab(tab, seen);
                }
                // A frame's dialogs are reported by its page.
            }
        }
        Vec::new()
    }

    fn world_made(&mut self, session: &SessionId, world: World) {
        if world.name == WORLD && self.worlds.len() < MAX_WORLDS {
            let id = WorldId { id: world.id, unique: world.unique };
            self.worlds.insert((session.clone(), world.frame), id);
        }
    }

    fn attached(&mut self, parent: Option<&SessionId>, attached: Attached) -> Vec<Effect> {
        let Attached { session_id: session, target_info: target } = attached;
        match target.kind.as_str() {
            "page" if self.tabs.len() >= MAX_TABS => return vec![Effect::Close(session, target.target_id)],
            "page" if self.tabs.iter().all(|tab| tab.target != target.target_id) => {
                self.last_tab += 1;
                let id = TabId(self.last_tab);
                self.current.get_or_insert(id);
                self.tabs.push(Tab {
                    id,
                    target: target.target_id,
                    session: session.clone(),
                    frames: Vec::new(),
                    crashed: false,
                    dialog: None,
                    dialogs_closed: 0,
                    documents: VecDeque::new(),
                    journey: Journey::Resting,
                    moves: 0,
                });
            }
            "iframe" => {
                let holds = |tab: &&mut Tab| {
                    parent.is_some_and(|parent| tab.session == *parent || tab.frames.contains(parent))
                };
                match self.tabs.iter_mut().find(holds) {
                    Some(tab) if tab.frames.len() < MAX_FRAME_SESSIONS => tab.frames.push(session.clone()),
                    _ => return vec![Effect::Resume(session)],
                }
            }
            // An outside client's connection.
            "browser" => return Vec::new(),
            _ => return vec![Effect::Resume(session)],
        }
        vec![Effect::Prepare(session)]
    }

    fn detached(&mut self, session: &SessionId) -> Vec<Effect> {
        self.worlds.retain(|(of, _), _| of != session);
        let mut gone = vec![session.clone()];
        if let Some(index) = self.tabs.iter().position(|tab| tab.session == *session) {
            let tab = self.tabs.remove(index);
            gone.extend(tab.frames);
            if self.current == Some(tab.id) {
                // As browsers do: the neighbour comes forward.
                let neighbour = self.tabs.get(index).or(self.tabs.last());
                self.current = neighbour.map(|tab| tab.id);
            }
        }
        for tab in &mut self.tabs {
            tab.frames.retain(|frame| frame != session);
        }
        gone.into_iter().map(|session| Effect::Fail(session, CallError::Detached)).collect()
    }

    fn crashed(&mut self, session: &SessionId) -> Vec<Effect> {
        let mut dead = vec![session.clone()];
        for tab in &mut self.tabs {
            if tab.session == *session {
                tab.crashed = true;
                tab.dialog = None;
                tab.journey = Journey::Resting;
                dead.append(&mut tab.frames);
            } else {
                tab.frames.retain(|frame| frame != session);
            }
        }
        self.worlds.retain(|(of, _), _| !dead.contains(of));
        dead.into_iter().map(|session| Effect::Fail(session, CallError::Crashed)).collect()
    }
}

fn in_tab(tab: &mut Tab, seen: Seen) -> Vec<Effect> {
    let main = tab.main_frame();
    match seen {
        Seen::Recovered => tab.crashed = false,
        Seen::Lifecycle(lifecycle) if lifecycle.frame_id == main => {
            tab.crashed = false;
            tab.advance(&lifecycle);
        }
        Seen::MovedWithin { frame } if frame == main => tab.moves += 1,
        Seen::Asked { frame } if frame == main => tab.journey = Journey::Asked,
        Seen::Started { frame } if frame == main => tab.journey = Journey::Begun,
        Seen::Stopped { frame } if frame == main => tab.journey = Journey::Resting,
        Seen::Response(Response { frame, loader, status }) if frame == main => {
            tab.document(&loader).status = u16::try_from(status).ok();
        }
        Seen::DialogOpened(dialog) if dialog.kind == "beforeunload" => {
            return vec![Effect::AcceptDialog(tab.session.clone())];
        }
        Seen::DialogOpened(dialog) => {
            let message = dialog.message.chars().take(DIALOG_CHARS).collect();
            tab.dialog = Some(Dialog { kind: dialog.kind, message });
        }
        Seen::DialogClosed => {
            tab.dialog = None;
            tab.dialogs_closed = tab.dialogs_closed.wrapping_add(1);
        }
        _ => {}
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(state: &mut State, session: Option<&str>, method: &str, params: &str) -> Vec<Effect> {
        let event = Seen::read(method, params).unwrap().unwrap();
        state.apply(session, event)
    }

    fn attach(
        state: &mut State,
        parent: Option<&str>,
        session: &str,
        target: &str,
        kind: &str,
    ) -> Vec<Effect> {
        let params = format!(
            r#"{{"sessionId":"{session}","targetInfo":{{"targetId":"{target}","type":"{kind}","url":""}},"new":1}}"#
        );
        seen(state, parent, "Target.attachedToTarget", &params)
    }

    fn life(state: &mut State, loader: &str, name: &str) {
        let params = format!(r#"{{"frameId":"T1","loaderId":"{loader}","name":"{name}","timestamp":1}}"#);
        assert!(seen(state, Some("S1"), "Page.lifecycleEvent", &params).is_empty());
    }

    #[test]
    fn a_document_that_never_commits_leaves_the_one_before() {
        let mut state = State::default();
        attach(&mut state, None, "S1", "T1", "page");
        life(&mut state, "A", "commit");
        life(&mut state, "A", "load");
        let response = r#"{"type":"Document","frameId":"T1","loaderId":"B","response":{"status":204}}"#;
        seen(&mut state, Some("S1"), "Network.responseReceived", response);
        assert_eq!(state.tabs[0].shown().unwrap().loader.as_ref() as &str, "A");
        assert_eq!(state.tabs[0].documents[1].status, Some(204));
        life(&mut state, "B", "commit");
        assert_eq!(state.tabs[0].shown().unwrap().progress, Progress::Committed);
        for n in 0..100 {
            life(&mut state, &n.to_string(), "commit");
        }
        assert_eq!(state.tabs[0].documents.len(), DOCUMENTS);
    }

    #[test]
    fn popups_without_end_are_closed() {
        let mut state = State::default();
        for n in 0..1000 {
            let effects = attach(&mut state, None, &format!("S{n}"), &format!("T{n}"), "page");
            let expected = if n < MAX_TABS {
                Effect::Prepare(format!("S{n}").into())
            } else {
                Effect::Close(format!("S{n}").into(), format!("T{n}").into())
            };
            assert_eq!(effects, vec![expected]);
        }
        assert_eq!(state.tabs.len(), MAX_TABS);
    }

    #[test]
    fn a_crash_ends_the_calls_of_the_page_and_of_its_frames() {
        let mut state = State::default();
        attach(&mut state, None, "S1", "T1", "page");
        attach(&mut state, Some("S1"), "F1", "TF", "iframe");
        attach(&mut state, Some("F1"), "F2", "TG", "iframe");
        assert_eq!(state.tabs[0].frames.len(), 2);
        let effects = seen(&mut state, Some("S1"), "Inspector.targetCrashed", "{}");
        let failed = |s: &str| Effect::Fail(s.to_owned().into(), CallError::Crashed);
        assert_eq!(effects, vec![failed("S1"), failed("F1"), failed("F2")]);
        assert!(state.tabs[0].crashed);
        life(&mut state, "A", "commit");
        assert!(!state.tabs[0].crashed);
    }

    #[test]
    fn the_neighbour_follows_a_closed_tab() {
        let mut state = State::default();
        for n in 1..=3 {
            attach(&mut state, None, &format!("S{n}"), &format!("T{n}"), "page");
        }
        state.current = Some(TabId(2));
        seen(&mut state, None, "Target.detachedFromTarget", r#"{"sessionId":"S2"}"#);
        assert_eq!(state.current, Some(TabId(3)));
        seen(&mut state, None, "Target.detachedFromTarget", r#"{"sessionId":"S3"}"#);
        assert_eq!(state.current, Some(TabId(1)));
    }

    #[test]
    fn worlds_are_ours_and_die_with_their_documents() {
        let mut state = State::default();
        attach(&mut state, None, "S1", "T1", "page");
        let made = |name: &str, unique: &str| {
            format!(
                r#"{{"context":{{"id":3,"origin":"","uniqueId":"{unique}","name":"{name}","auxData":{{"frameId":"T1"}}}}}}"#
            )
        };
        let (session, frame) = (SessionId::from("S1".to_owned()), FrameId::from("T1".to_owned()));
        seen(&mut state, Some("S1"), "Runtime.executionContextCreated", &made("page's", "1.1"));
        assert_eq!(state.world(&session, &frame), None);
        seen(&mut state, Some("S1"), "Runtime.executionContextCreated", &made(WORLD, "1.2"));
        assert!(state.world(&session, &frame).is_some());
        let gone = r#"{"executionContextId":3,"executionContextUniqueId":"1.2"}"#;
        seen(&mut state, Some("S1"), "Runtime.executionContextDestroyed", gone);
        assert_eq!(state.world(&session, &frame), None);
    }
}
