//! A connection together with what is known of the browser.

use crate::connection::{CallError, Connection, Event, Listener, Tasks};
use crate::event::Seen;
use crate::screen::Frame;
use crate::state::{Effect, State, TabId, WORLD};
use crate::store::accept_downloads;
use chromiumoxide_cdp::cdp::browser_protocol::target::{
    CloseTargetParams, CreateTargetParams, FilterEntry, SessionId, SetAutoAttachParams, TargetFilter,
};
use chromiumoxide_cdp::cdp::browser_protocol::{emulation, network, page};
use chromiumoxide_cdp::cdp::js_protocol::runtime;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// Runs in every document, in a world of its own.
const AGENT: &str = include_str!("agent.js");

/// How long a new page waits until its window has its size.
const RESIZE_WAIT: Duration = Duration::from_secs(1);

/// Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub connection: Connection,
    state: Arc<Mutex<State>>,
    /// Rings after every change of the state.
    changes: watch::Receiver<()>,
    /// The newest picture of a tab that is watched.
    pub frames: watch::Receiver<Option<Arc<Frame>>>,
}

impl Link {
    /// Takes the pipe and waits until a page can be driven.
    pub(crate) async fn open(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        deadline: Instant,
    ) -> Result<(Link, Tasks), CallError> {
        let state = Arc::new(Mutex::new(State::default()));
        let (bell, changes) = watch::channel(());
        let (pictures, frames) = watch::channel(None);
        let watcher = Watcher { state: Arc::clone(&state), bell, pictures };
        let (connection, tasks) = Connection::open(reader, writer, watcher);
        let link = Link { connection, state, changes, frames };
        accept_downloads(&link.connection);
        link.connection.call(None, &attach_to("page"), deadline).await?;
        if link.state().tabs.is_empty() {
            link.connection.call(None, &CreateTargetParams::new("about:blank"), deadline).await?;
        }
        link.until(deadline, |state| {
            let tab = state.tabs.first()?;
            state.world(&tab.session, &tab.main_frame()).map(drop)
        })
        .await?;
        Ok((link, tasks))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` finds what it looks for.
    pub(crate) async fn until<T>(
        &self,
        deadline: Instant,
        mut look: impl FnMut(&State) -> Option<T>,
    ) -> Result<T, CallError> {
        let mut changes = self.changes.clone();
        let found = async {
            loop {
                changes.mark_unchanged();
                if let Some(found) = look(&self.state()) {
                    return Ok(found);
                }
                changes.changed().await.map_err(|_| CallError::Ended)?;
            }
        };
        tokio::time::timeout_at(deadline.into(), found).await.map_err(|_| CallError::Deadline)?
    }

    /// Ends when a dialog holds the tab, and never otherwise.
    pub(crate) async fn blocked(&self, tab: Option<TabId>) {
        let far = Instant::now() + std::time::Duration::from_secs(365 * 24 * 3600);
        let opened = self.until(far, |state| state.tab(tab?)?.dialog.as_ref().map(drop)).await;
        if opened.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Writes events into the state and does at once what they ask for.
struct Watcher {
    state: Arc<Mutex<State>>,
    bell: watch::Sender<()>,
    pictures: watch::Sender<Option<Arc<Frame>>>,
}

impl Listener for Watcher {
    fn event(&mut self, connection: &Connection, event: &Event<'_>) {
        let seen = match Seen::read(event.method, event.params) {
            Ok(Some(Seen::Frame(frame))) => return self.picture(event.session, frame),
            Ok(Some(seen)) => seen,
            Ok(None) => return,
            Err(error) => return tracing::warn!(method = event.method, %error, "an event does not fit"),
        };
        let effects = self.state.lock().unwrap_or_else(PoisonError::into_inner).apply(event.session, seen);
        for effect in effects {
            match effect {
                Effect::Prepare(session) => {
                    prepare(connection, &session);
                    self.start(connection, session);
                }
                Effect::Resume(session) => run(connection, &session),
                Effect::Close(session, target) => {
                    run(connection, &session);
                    connection.tell(None, &CloseTargetParams::new(target));
                }
                Effect::AcceptDialog(session) => {
                    connection.tell(Some(&session), &page::HandleJavaScriptDialogParams::new(true));
                }
                Effect::Fail(session, why) => connection.fail(&session, &why),
            }
        }
        self.bell.send_replace(());
    }
}

impl Watcher {
    /// Lets a page or a frame run; a page when its window has its size.
    fn start(&self, connection: &Connection, session: SessionId) {
        let sizing = self.state.lock().unwrap_or_else(PoisonError::into_inner).sizing_of(&session);
        let Some(sizing) = sizing else { return run(connection, &session) };
        let connection = connection.clone();
        tokio::spawn(async move {
            if let Err(error) = sizing.apply(&connection, &session, Instant::now() + RESIZE_WAIT).await {
                tracing::warn!(%error, "a window keeps its size");
            }
            run(&connection, &session);
        });
    }

    /// Only the newest is kept.
    fn picture(&self, session: Option<&str>, frame: crate::event::Frame) {
        let Some(session) = session else { return };
        let session = SessionId::from(session.to_owned());
        self.pictures.send_replace(Some(Arc::new(Frame::new(session, frame))));
    }
}

/// Makes a new page or frame, which does not run yet, report, and puts our script into it.
fn prepare(connection: &Connection, session: &SessionId) {
    let session = Some(session);
    connection.tell(session, &page::EnableParams::default());
    connection.tell(session, &page::SetLifecycleEventsEnabledParams::new(true));
    connection.tell(session, &runtime::EnableParams {});
    connection.tell(session, &network::EnableParams::default());
    connection.tell(
        session,
        &page::AddScriptToEvaluateOnNewDocumentParams {
            source: AGENT.to_owned(),
            world_name: Some(WORLD.to_owned()),
            include_command_line_api: None,
            run_immediately: Some(true),
        },
    );
    connection.tell(session, &attach_to("iframe"));
    // Otherwise only one tab of the browser has the focus, and fields in others do not get focus events.
    connection.tell(session, &emulation::SetFocusEmulationEnabledParams::new(true));
}

fn run(connection: &Connection, session: &SessionId) {
    connection.tell(Some(session), &runtime::RunIfWaitingForDebuggerParams {});
}

/// Sessions for targets of one kind, through the one pipe. They wait until they are told to run, so that nothing of a
/// document is missed; a window that a page has opened waits in any case.
fn attach_to(kind: &str) -> SetAutoAttachParams {
    SetAutoAttachParams {
        auto_attach: true,
        wait_for_debugger_on_start: true,
        flatten: Some(true),
        filter: Some(TargetFilter::new(vec![FilterEntry { exclude: None, r#type: Some(kind.to_owned()) }])),
    }
}
