//! What a person sees of the browser, and what a person does who has taken over.
//!
//! Whoever watches gets the pictures that Chromium makes of the selected tab while it changes (a screencast), the newest
//! when there is room for one, and what the tab is. All watchers share one screencast; with the last of them it ends.
//!
//! Somebody who takes over holds the browser: actions fail, and what an outside client asks waits, until it is given back.

use crate::event::TargetInfo;
use crate::hand::{Word, destination};
use crate::link::Link;
use crate::run::Browser;
use crate::state::{State, TabId};
use chromiumoxide_cdp::cdp::browser_protocol::input::InsertTextParams;
use chromiumoxide_cdp::cdp::browser_protocol::page::{
    BringToFrontParams, HandleJavaScriptDialogParams, NavigateParams, ReloadParams, ScreencastFrameAckParams,
    StartScreencastFormat, StartScreencastParams, StopScreencastParams,
};
use chromiumoxide_cdp::cdp::browser_protocol::target::SessionId;
use chromiumoxide_cdp::cdp::js_protocol::runtime::EvaluateParams;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// Between two pictures.
const FRAME_EVERY: Duration = Duration::from_millis(50);
const QUALITY: i64 = 70;
/// A larger page is shown smaller.
const WIDTH_MAX: i64 = 1600;
const HEIGHT_MAX: i64 = 1200;
/// How often it is looked whether the tab has another URL or title.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the browser may take to say them.
const LOOK_WAIT: Duration = Duration::from_secs(2);
/// A page chooses them.
const URL_CHARS: usize = 4096;
const TITLE_CHARS: usize = 512;
/// The longest message of a watcher.
const WORD_BYTES_MAX: u32 = 64 << 10;

/// A picture of a tab, as Chromium made it.
#[derive(Debug, PartialEq)]
pub(crate) struct Frame {
    pub session: SessionId,
    /// What Chromium wants to be told when it is shown.
    pub number: i64,
    /// JPEG, in base64.
    pub data: String,
    /// The viewport that it shows, in CSS pixels.
    pub width: f64,
    pub height: f64,
}

impl Frame {
    pub(crate) fn new(session: SessionId, frame: crate::event::Frame) -> Self {
        let crate::event::Frame { data, metadata, session_id: number } = frame;
        Self { session, number, data, width: metadata.device_width, height: metadata.device_height }
    }
}

/// Whether a person has taken over. One at a time is let do so, but each has a stream of its own: that one gives back may
/// be read here after the next has taken. Therefore they are counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hold(Arc<watch::Sender<usize>>);

impl Hold {
    pub(crate) fn is_taken(&self) -> bool {
        *self.0.borrow() > 0
    }

    /// Returns when it is (or is not) taken.
    pub(crate) async fn until(&self, taken: bool) {
        let mut holders = self.0.subscribe();
        // Its sender is here.
        let _sender_is_here = holders.wait_for(|holders| (*holders > 0) == taken).await.is_ok();
    }
}

/// The browser as a person sees it; clones show the same.
#[derive(Debug, Clone)]
pub struct Screen {
    link: Link,
    hold: Hold,
    watchers: Arc<watch::Sender<usize>>,
}

/// One more who watches, until this is dropped.
struct Watching<'a> {
    screen: &'a Screen,
    /// It has taken over.
    holds: bool,
}

impl<'a> Watching<'a> {
    fn new(screen: &'a Screen) -> Self {
        screen.watchers.send_modify(|count| *count += 1);
        Self { screen, holds: false }
    }

    fn hold(&mut self, holds: bool) {
        if std::mem::replace(&mut self.holds, holds) != holds {
            let count = |holders: &mut usize| if holds { *holders += 1 } else { *holders -= 1 };
            self.screen.hold.0.send_modify(count);
        }
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.hold(false);
        self.screen.watchers.send_modify(|count| *count -= 1);
    }
}

impl Browser {
    /// What persons see of it.
    pub fn screen(&self) -> Screen {
        self.screen.clone()
    }
}

impl Screen {
    pub(crate) fn new(link: Link, hold: Hold) -> Self {
        Self { link, hold, watchers: Arc::new(watch::Sender::new(0)) }
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        *self.watchers.borrow()
    }

    /// Has Chromium make pictures while somebody watches; ends when the browser does.
    pub async fn cast(&self) {
        let mut watchers = self.watchers.subscribe();
        loop {
            // Its sender is here.
            let _sender_is_here = watchers.wait_for(|count| *count > 0).await.is_ok();
            let Some(session) = selected(&self.link.state()) else {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            };
            let start = StartScreencastParams {
                format: Some(StartScreencastFormat::Jpeg),
                quality: Some(QUALITY),
                max_width: Some(WIDTH_MAX),
                max_height: Some(HEIGHT_MAX),
                every_nth_frame: Some(1),
            };
            self.link.connection.tell(Some(&session), &start);
            tokio::select! {
                () = self.pace(&session) => return,
                _unwatched = watchers.wait_for(|count| *count == 0) => {}
                () = self.another_than(&session) => {}
            }
            self.link.connection.tell(Some(&session), &StopScreencastParams {});
        }
    }

    /// Returns when another tab is selected.
    async fn another_than(&self, session: &SessionId) {
        while selected(&self.link.state()).as_ref() == Some(session) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Lets the next picture come when the last one is old enough. Returns when none will come any more.
    async fn pace(&self, session: &SessionId) {
        let mut frames = self.link.frames.clone();
        while frames.changed().await.is_ok() {
            let shown =
                frames.borrow_and_update().as_ref().filter(|frame| frame.session == *session).cloned();
            tokio::time::sleep(FRAME_EVERY).await;
            if let Some(frame) = shown {
                self.link.connection.tell(Some(session), &ScreencastFrameAckParams::new(frame.number));
            }
        }
    }

    /// Serves one who watches until it leaves; framed as for [`Browser::converse`].
    pub async fn show(&self, mut reader: impl AsyncRead + Unpin, mut writer: impl AsyncWrite + Unpin) {
        let mut watching = Watching::new(self);
        tokio::select! {
            () = self.paint(&mut writer) => {}
            () = self.obey(&mut reader, &mut watching) => {}
        }
    }

    /// Tells what there is to see: the newest picture, when there is room for one, and the page when it is another.
    async fn paint(&self, writer: &mut (impl AsyncWrite + Unpin)) {
        let mut frames = self.link.frames.clone();
        if self.watchers() > 1 {
            // The newest is what there is to see; otherwise nobody has looked since.
            frames.mark_changed();
        } else {
            frames.mark_unchanged();
        }
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Value::Null;
        loop {
            let said = tokio::select! {
                biased;
                _ = looks.tick() => {
                    let page = self.page().await;
                    let news = page != told;
                    told = page;
                    news.then(|| told.to_string())
                }
                changed = frames.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let frame = frames.borrow_and_update().clone();
                    frame.filter(|frame| self.shows(frame)).map(|frame| frame.said())
                }
            };
            if let Some(said) = said
                && write(writer, &said).await.is_err()
            {
                return;
            }
        }
    }

    fn shows(&self, frame: &Frame) -> bool {
        selected(&self.link.state()).as_ref() == Some(&frame.session)
    }

    /// What the tabs are. Answered by the browser's own process, so that a page that hangs does not matter.
    async fn page(&self) -> Value {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Targets {
            target_infos: Vec<TargetInfo>,
        }
        let deadline = Instant::now() + LOOK_WAIT;
        let nothing = serde_json::Map::new();
        let targets = self.link.connection.call_as(None, "Target.getTargets", nothing, deadline).await;
        let Targets { target_infos } = targets.unwrap_or_default();
        let state = self.link.state();
        let tabs = state.tabs.iter().map(|tab| {
            let info = target_infos.iter().find(|info| info.target_id == tab.target);
            let (url, title) = info.map_or(("", ""), |info| (&*info.url, &*info.title));
            json!({
                "id": tab.id,
                "url": url.chars().take(URL_CHARS).collect::<String>(),
                "title": title.chars().take(TITLE_CHARS).collect::<String>(),
                "selected": state.current == Some(tab.id),
                "crashed": tab.crashed,
            })
        });
        let dialog = state.current.and_then(|id| state.tab(id)?.dialog.as_ref());
        let dialog = dialog.map(|open| json!({"kind": open.kind, "message": open.message}));
        json!({"type": "page", "tabs": tabs.collect::<Vec<_>>(), "dialog": dialog})
    }

    /// Does what the watcher says.
    async fn obey(&self, reader: &mut (impl AsyncRead + Unpin), watching: &mut Watching<'_>) {
        let mut word = Vec::new();
        loop {
            let Ok(length) = reader.read_u32_le().await else { return };
            if length > WORD_BYTES_MAX {
                return;
            }
            word.resize(usize::try_from(length).unwrap_or_default(), 0);
            if reader.read_exact(&mut word).await.is_err() {
                return;
            }
            match serde_json::from_slice(&word) {
                Ok(Word::Take) => watching.hold(true),
                Ok(Word::Release) => watching.hold(false),
                Ok(word) if watching.holds => self.act(word),
                // Said before it was told that the hold is over; or nonsense.
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Does one thing. Its effect is seen, so nothing is waited for.
    fn act(&self, word: Word) {
        let Some(session) = selected(&self.link.state()) else { return };
        let (connection, session) = (&self.link.connection, Some(&session));
        match word {
            Word::Mouse(mouse) => connection.tell(session, &mouse.command()),
            Word::Key(key) => connection.tell(session, &key.command()),
            Word::Text { text } => connection.tell(session, &InsertTextParams::new(text)),
            Word::Go { url } => {
                if let Some(url) = destination(&url) {
                    connection.tell(session, &NavigateParams::new(url));
                }
            }
            Word::Back => connection.tell(session, &EvaluateParams::new("history.back()")),
            Word::Forward => connection.tell(session, &EvaluateParams::new("history.forward()")),
            Word::Reload => connection.tell(session, &ReloadParams::default()),
            Word::Dialog { accept, text } => {
                connection.tell(session, &HandleJavaScriptDialogParams { accept, prompt_text: text });
            }
            Word::Tab { id } => self.select(id),
            Word::Take | Word::Release => {}
        }
    }

    fn select(&self, id: TabId) {
        let mut state = self.link.state();
        let Some(session) = state.tab(id).map(|tab| tab.session.clone()) else { return };
        state.current = Some(id);
        drop(state);
        self.link.connection.tell(Some(&session), &BringToFrontParams {});
    }
}

impl Frame {
    fn said(&self) -> String {
        json!({"type": "frame", "width": self.width, "height": self.height, "data": self.data}).to_string()
    }
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), said: &str) -> std::io::Result<()> {
    let length = u32::try_from(said.len()).map_err(std::io::Error::other)?;
    writer.write_u32_le(length).await?;
    writer.write_all(said.as_bytes()).await
}

/// The session of the selected tab.
fn selected(state: &State) -> Option<SessionId> {
    Some(state.tab(state.current?)?.session.clone())
}
