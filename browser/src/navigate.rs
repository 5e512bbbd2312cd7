//! Going from page to page, and waiting.

use crate::action::{Target, Wait, WaitUntil};
use crate::connection::CallError;
use crate::locate::Needs;
use crate::outcome::{Failure, Reply};
use crate::run::{NO_TAB, Step};
use crate::state::{Document, Journey, Progress, State, Tab, TabId};
use chromiumoxide_cdp::cdp::browser_protocol::network::LoaderId;
use chromiumoxide_cdp::cdp::browser_protocol::page;
use chromiumoxide_cdp::cdp::browser_protocol::target::SessionId;
use serde::Deserialize;
use std::time::{Duration, Instant};
use url::Url;

/// How long an action waits for a page that it made load; the next action waits on its own.
const SETTLE: Duration = Duration::from_secs(5);
/// How long the browser may take to begin what a page asked for.
const ASKED: Duration = Duration::from_millis(100);
const LONGEST_WAIT_SECONDS: f64 = 3600.0;

/// `Page.navigate`'s answer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    loader_id: Option<LoaderId>,
    error_text: Option<String>,
    #[serde(default)]
    is_download: bool,
}

impl Step<'_> {
    pub(crate) async fn navigate(&mut self, url: &str, wait_until: WaitUntil) -> Result<Reply, Failure> {
        let url = allowed(url)?;
        let (tab, session) = self.standing()?;
        self.revive(tab);
        let moves = self.moves(tab);
        self.touched = true;
        let params = page::NavigateParams::new(url);
        let connection = &self.link.connection;
        let answer: Answer =
            connection.call_as(Some(&session), "Page.navigate", params, self.deadline).await?;
        if answer.is_download {
            return Err(Failure::Navigation(
                "the URL is a download, not a page: it lands in /workspace/downloads".to_owned(),
            ));
        }
        if let Some(why) = answer.error_text {
            let status = answer.loader_id.and_then(|loader| self.status_of(tab, &loader));
            let status = status.map_or_else(String::new, |status| format!(" (HTTP {status})"));
            return Err(Failure::Navigation(why + &status));
        }
        let Some(loader) = answer.loader_id else {
            // Only the part behind # has changed, which is answered before it is done. Where nothing changes, no news comes.
            let soon = self.deadline.min(Instant::now() + ASKED);
            let _moved = self.link.until(soon, |state| (state.tab(tab)?.moves != moves).then_some(())).await;
            return self.whereabouts().await.map(Reply::Navigated);
        };
        let committed = move |tab: &Tab| {
            tab.documents.iter().any(|d| d.loader == loader && d.progress > Progress::Answered)
        };
        self.loaded(tab, committed, wait_until).await?;
        self.whereabouts().await.map(Reply::Navigated)
    }

    pub(crate) async fn reload(&mut self) -> Result<Reply, Failure> {
        let (tab, session) = self.standing()?;
        let before = self.shown(tab);
        self.revive(tab);
        self.touched = true;
        self.link.connection.call(Some(&session), &page::ReloadParams::default(), self.deadline).await?;
        let renewed = move |tab: &Tab| tab.shown().map(|document| &document.loader) != before.as_ref();
        self.loaded(tab, renewed, WaitUntil::Load).await?;
        self.whereabouts().await.map(Reply::Navigated)
    }

    /// One step back (-1) or forward (1) in the tab's history.
    pub(crate) async fn travel(&mut self, step: i64) -> Result<Reply, Failure> {
        let (tab, session) = self.standing()?;
        let history = self.call(&page::GetNavigationHistoryParams {}).await?;
        let index = usize::try_from(history.current_index + step).ok();
        let entry = index
            .and_then(|index| history.entries.get(index))
            .ok_or(Failure::Absent("no page in this direction"))?;
        let (before, moves) = (self.shown(tab), self.moves(tab));
        self.touched = true;
        let there = page::NavigateToHistoryEntryParams::new(entry.id);
        self.link.connection.call(Some(&session), &there, self.deadline).await?;
        let moved = move |tab: &Tab| tab.moves != moves || tab.shown().map(|d| &d.loader) != before.as_ref();
        self.loaded(tab, moved, WaitUntil::Load).await?;
        self.whereabouts().await.map(Reply::Navigated)
    }

    pub(crate) async fn wait_for(&mut self, wait: &Wait) -> Result<Reply, Failure> {
        match wait {
            Wait::Text(text) => drop(self.seen(&Target::Text(text.clone())).await?),
            Wait::Target(Target::Point { .. }) => {
                return Err(Failure::Limit("a point is always there".to_owned()));
            }
            Wait::Target(target) => drop(self.seen(target).await?),
            Wait::Load(how_far) => {
                let (tab, _) = self.standing()?;
                self.loaded(tab, |_| true, *how_far).await?;
            }
            Wait::Url(part) => {
                while !self.whereabouts().await?.url.contains(part.as_str()) {
                    self.pause(Duration::from_millis(50)).await?;
                }
            }
            Wait::Seconds(seconds) if (0.0..LONGEST_WAIT_SECONDS).contains(seconds) => {
                self.pause(Duration::from_secs_f64(*seconds)).await?;
            }
            Wait::Seconds(_) => return Err(Failure::Limit("a wait has 0 to 3,600 seconds".to_owned())),
        }
        Ok(Reply::Nothing)
    }

    /// Waits until a target can be seen; several are as good as one.
    async fn seen(&mut self, target: &Target) -> Result<(), Failure> {
        match self.locate(target, Needs::SEEN).await {
            Err(Failure::Target { obstacle: crate::outcome::Obstacle::Ambiguous { .. }, .. }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// After input: gives the page a moment to react, and if it began to load another page, waits for that. What goes wrong
    /// meanwhile is the next action's business; the input was delivered.
    pub(crate) async fn settle(&mut self) {
        let link = self.link;
        let tab = link.state().current;
        let whole = self.deadline;
        self.deadline = whole.min(Instant::now() + SETTLE);
        tokio::select! {
            _settled = self.rest(tab) => {}
            () = link.blocked(tab) => {}
        }
        self.deadline = whole;
    }

    async fn rest(&mut self, tab: Option<TabId>) -> Result<(), Failure> {
        let page = self.page()?;
        // A document that is being replaced does not answer any more; that is known below.
        let _reacted = self.ask::<bool>(&page, "anchorhold.settle()").await;
        let journey =
            |state: &State| tab.and_then(|tab| state.tab(tab)).map_or(Journey::Resting, |tab| tab.journey);
        let soon = self.deadline.min(Instant::now() + ASKED);
        let decided = self.link.until(soon, |state| (journey(state) != Journey::Asked).then_some(()));
        if decided.await == Err(CallError::Deadline) {
            return Ok(());
        }
        Ok(self.link.until(self.deadline, |state| (journey(state) == Journey::Resting).then_some(())).await?)
    }

    /// Waits, if the deadline allows.
    pub(crate) async fn pause(&self, time: Duration) -> Result<(), Failure> {
        if Instant::now() + time >= self.deadline {
            tokio::time::sleep_until(self.deadline.into()).await;
            return Err(CallError::Deadline.into());
        }
        tokio::time::sleep(time).await;
        Ok(())
    }

    /// Waits until `arrived`, and until what the tab shows then has come far enough. An open dialog holds a page's loading:
    /// then it has come as far as it can.
    async fn loaded(
        &self,
        tab: TabId,
        arrived: impl Fn(&Tab) -> bool,
        wait_until: WaitUntil,
    ) -> Result<(), Failure> {
        let enough = |document: &Document| match wait_until {
            WaitUntil::DomContentLoaded => document.progress >= Progress::Parsed,
            WaitUntil::Load => document.progress >= Progress::Loaded,
            WaitUntil::NetworkIdle => document.progress >= Progress::Loaded && document.idle,
        };
        let ended = self.link.until(self.deadline, |state| match state.tab(tab) {
            None => Some(Err(CallError::Detached)),
            Some(tab) if tab.crashed => Some(Err(CallError::Crashed)),
            Some(tab) if tab.dialog.is_some() => Some(Ok(())),
            Some(tab) => (arrived(tab) && tab.shown().is_some_and(enough)).then_some(Ok(())),
        });
        Ok(ended.await??)
    }

    /// The selected tab, crashed or not.
    fn standing(&self) -> Result<(TabId, SessionId), Failure> {
        let state = self.link.state();
        let tab = state.current.and_then(|id| state.tab(id)).ok_or(NO_TAB)?;
        Ok((tab.id, tab.session.clone()))
    }

    /// A crashed page comes back when it is told to load something; until then its state would read as a new crash.
    fn revive(&self, id: TabId) {
        if let Some(tab) = self.link.state().tabs.iter_mut().find(|tab| tab.id == id) {
            tab.crashed = false;
        }
    }

    fn shown(&self, tab: TabId) -> Option<LoaderId> {
        Some(self.link.state().tab(tab)?.shown()?.loader.clone())
    }

    fn moves(&self, tab: TabId) -> u64 {
        self.link.state().tab(tab).map_or(0, |tab| tab.moves)
    }

    fn status_of(&self, tab: TabId, loader: &LoaderId) -> Option<u16> {
        self.link.state().tab(tab)?.documents.iter().find(|document| document.loader == *loader)?.status
    }
}

/// The URL as Chromium will understand it, if a session may go there. What the browser can reach is decided by its cell and
/// by egress; this keeps the browser's own pages and the cell's files out of sight.
pub(crate) fn allowed(url: &str) -> Result<String, Failure> {
    let parsed = Url::parse(url).map_err(|error| Failure::Url(format!("not a URL: {error}")))?;
    match parsed.scheme() {
        "http" | "https" | "data" => Ok(parsed.into()),
        "about" if parsed.path() == "blank" => Ok(parsed.into()),
        scheme => Err(Failure::Url(format!("{scheme}: URLs are not opened here"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_the_web_are_opened() {
        for url in [
            "http://a.example/x?y#z",
            "HTTPS://A.example",
            "about:blank",
            "data:text/html,hi",
            " http://a/\n",
        ] {
            assert!(allowed(url).is_ok(), "{url}");
        }
        for url in [
            "file:///etc/passwd",
            "FILE:/etc/passwd",
            "\u{1}file:///x",
            "fi\tle:///x",
            "view-source:http://a/",
            "chrome://crash",
            "devtools://x",
            "javascript:alert(1)",
            "about:settings",
            "blob:http://a/1",
            "filesystem:http://a/",
            "example.com",
            "",
        ] {
            assert!(matches!(allowed(url), Err(Failure::Url(_))), "{url}");
        }
        assert_eq!(allowed("http://A.example\\b").unwrap(), "http://a.example/b");
    }
}
