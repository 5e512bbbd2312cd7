//! Runs actions, one after the other.

use crate::action::{Action, Cookies, FieldValue, Tabs};
use crate::connection::{CallError, Tasks};
use crate::event::TargetInfo;
use crate::link::Link;
use crate::outcome::{Failure, Navigated, Outcome, Reply, TabInfo};
use crate::screen::{Hold, Screen};
use crate::state::{Dialog, TabId};
use crate::view::View;
use crate::window::Sizing;
use chromiumoxide_cdp::cdp::browser_protocol::page::FrameId;
use chromiumoxide_cdp::cdp::browser_protocol::target::{self, SessionId, TargetId};
use chromiumoxide_cdp::cdp::browser_protocol::{emulation, network, page, storage};
use chromiumoxide_types::Command;
use serde::Deserialize;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};

/// How long what a person who has given back said last may take to be read here. The streams of persons and of requests
/// are not in step.
const GIVING_BACK: Duration = Duration::from_secs(1);
/// The viewport's largest side.
const MAX_SIDE: u32 = 4096;

/// A browser that is driven: the conversation with one Chromium, of one session. Dropping it closes the pipe, and thereby
/// ends Chromium.
#[derive(Debug)]
pub struct Browser {
    pub(crate) link: Link,
    view: View,
    pub(crate) hold: Hold,
    pub(crate) screen: Screen,
    _tasks: Tasks,
}

/// Where the browser is, for people and for the next request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The tab that actions go to.
    pub tab: TabId,
    /// Its URL.
    pub url: String,
    /// Its title.
    pub title: String,
    /// What must be answered before anything else.
    pub dialog: Option<Dialog>,
}

impl Browser {
    /// Starts the conversation: `reader` is what Chromium writes (its descriptor 4 under `--remote-debugging-pipe`),
    /// `writer` what it reads (3). Returns when a page can be driven.
    ///
    /// # Errors
    /// When Chromium ends or does not get that far by the deadline.
    pub async fn connect(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        deadline: Instant,
    ) -> Result<Browser, CallError> {
        let (link, tasks) = Link::open(reader, writer, deadline).await?;
        let hold = Hold::default();
        let screen = Screen::new(link.clone(), hold.clone());
        Ok(Browser { link, view: View::new(), hold, screen, _tasks: tasks })
    }

    /// Runs actions in order until one fails, and says what became of each. An action that acts on an element waits until
    /// it is visible, stable, enabled and gets the events, as long as the deadline allows.
    pub async fn run(&mut self, actions: &[Action], deadline: Instant) -> Vec<Outcome> {
        // Whoever still has it after that has taken it since these actions were let in: they fail.
        let _given_back = tokio::time::timeout(GIVING_BACK, self.hold.until(false)).await.is_ok();
        let mut outcomes = Vec::with_capacity(actions.len());
        for action in actions {
            let outcome = match outcomes.last() {
                None | Some(Outcome::Done(_)) => self.act(action, deadline).await,
                Some(_) => Outcome::NotSent,
            };
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Gives the window this size (CSS pixels), and all windows to come for which no page asks for another.
    ///
    /// # Errors
    /// When no tab is open, or the browser does not answer.
    pub async fn resize(&self, width: u16, height: u16, deadline: Instant) -> Result<(), Failure> {
        let page = self.link.state().tabs.first().map(|tab| tab.session.clone()).ok_or(NO_TAB)?;
        let wanted = (width.into(), height.into());
        let sizing = Sizing::learn(&self.link.connection, &page, wanted, deadline).await?;
        self.link.state().sizing = Some(sizing);
        Ok(sizing.apply(&self.link.connection, &page, deadline).await?)
    }

    /// Ends when the browser has ended.
    pub async fn ended(&self) {
        let far = Instant::now() + Duration::from_secs(365 * 24 * 3600);
        // Nothing is looked for: only the end of the conversation ends this.
        let _over = self.link.until(far, |_| None::<()>).await;
    }

    /// Where the browser is. Answered by the browser's own process, so that a page that hangs does not matter.
    ///
    /// # Errors
    /// When no tab is open, or the browser does not answer.
    pub async fn summary(&self, deadline: Instant) -> Result<Summary, Failure> {
        let (tab, target, dialog) = {
            let state = self.link.state();
            let tab = state.current.and_then(|id| state.tab(id)).ok_or(NO_TAB)?;
            (tab.id, tab.target.clone(), tab.dialog.clone())
        };
        let TargetInfo { url, title, .. } = target_info(&self.link, &target, deadline).await?;
        Ok(Summary { tab, url, title, dialog })
    }

    async fn act(&mut self, action: &Action, deadline: Instant) -> Outcome {
        let link = &self.link;
        let tab = link.state().current;
        // What speaks to the browser itself, or ends the dialog, works while one is open.
        let undisturbed = matches!(action, Action::Dialog { .. } | Action::Tabs(_) | Action::Cookies(_));
        if !undisturbed && let Some(dialog) = open_dialog(link, tab) {
            return if action.may_be_left_out() {
                Outcome::Done(Reply::Nothing)
            } else {
                Outcome::Failed(dialog)
            };
        }
        if Instant::now() >= deadline {
            return Outcome::Failed(CallError::Deadline.into());
        }
        if self.hold.is_taken() {
            return Outcome::Failed(Failure::Paused);
        }
        // A navigation has its own way to end when the new page greets with a dialog.
        let disturbed = !undisturbed && !action.navigates();
        let mut step = Step { link, view: &mut self.view, deadline, touched: false };
        let ended = tokio::select! {
            biased;
            ended = step.take(action) => Some(ended),
            () = self.hold.until(true) => Some(Err(Failure::Paused)),
            () = link.blocked(tab), if disturbed => None,
        };
        let touched = step.touched;
        match ended {
            Some(Ok(reply)) => Outcome::Done(reply),
            Some(Err(failure)) if touched && failure.leaves_open() => Outcome::Unknown(failure),
            Some(Err(failure)) => Outcome::Failed(failure),
            None => interrupted(action, touched, open_dialog(link, tab)),
        }
    }
}

/// A dialog opened while an action was under way. It is what the input was for, or it came between.
fn interrupted(action: &Action, touched: bool, dialog: Option<Failure>) -> Outcome {
    let failure = dialog.unwrap_or(Failure::Absent("the dialog has closed"));
    match action {
        Action::Evaluate { .. } => Outcome::Unknown(failure),
        _ if touched || action.may_be_left_out() => Outcome::Done(Reply::Nothing),
        _ => Outcome::Failed(failure),
    }
}

fn open_dialog(link: &Link, tab: Option<TabId>) -> Option<Failure> {
    let Dialog { kind, message } = link.state().tab(tab?)?.dialog.clone()?;
    Some(Failure::Dialog { kind, message })
}

impl Failure {
    /// Whether, once the page was told, it may have done what was asked.
    fn leaves_open(&self) -> bool {
        match self {
            Failure::Call(error) => !matches!(error, CallError::Refused { .. }),
            Failure::Paused => true,
            _ => false,
        }
    }
}

pub(crate) const NO_TAB: Failure = Failure::Absent("no tab is open");

/// A document: a frame, and the session of the process that draws it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub session: SessionId,
    pub frame: FrameId,
}

/// One action under way.
pub(crate) struct Step<'a> {
    pub link: &'a Link,
    pub view: &'a mut View,
    pub deadline: Instant,
    /// The page was told to do something; from now on a missing answer means that it may have done it.
    pub touched: bool,
}

impl Step<'_> {
    async fn take(&mut self, action: &Action) -> Result<Reply, Failure> {
        match action {
            Action::Navigate { url, wait_until } => self.navigate(url, *wait_until).await,
            Action::Back {} => self.travel(-1).await,
            Action::Forward {} => self.travel(1).await,
            Action::Reload {} => self.reload().await,
            Action::Click { target, button, modifiers } => self.click(target, *button, modifiers, 1).await,
            Action::DoubleClick { target, button, modifiers } => {
                self.click(target, *button, modifiers, 2).await
            }
            Action::Hover { target, modifiers } => self.hover(target, modifiers).await,
            Action::Drag { from, to } => self.drag(from, to).await,
            Action::Type { target, text, delay_ms } => self.type_text(target.as_ref(), text, *delay_ms).await,
            Action::Fill { target, value } => self.fill(target, value).await,
            Action::FillForm { fields } => {
                for field in fields {
                    self.fill(&field.target, &field.value).await?;
                }
                Ok(Reply::Nothing)
            }
            Action::Clear { target } => self.fill(target, &FieldValue::Text(String::new())).await,
            Action::Select(selection) => self.select(selection).await,
            Action::Check { target } => self.check(target, true).await,
            Action::Uncheck { target } => self.check(target, false).await,
            Action::Upload { target, paths } => self.upload(target, paths).await,
            Action::Press { key } => self.press(key).await,
            Action::Scroll(scroll) => self.scroll(scroll).await,
            Action::WaitFor(wait) => self.wait_for(wait).await,
            Action::Snapshot { budget_bytes, since, .. } => self.snapshot(*budget_bytes, *since).await,
            Action::Extract { format, target } => self.extract(*format, target.as_ref()).await,
            Action::Screenshot { format, full_page, target, clip, .. } => {
                self.screenshot(*format, *full_page, target.as_ref(), *clip).await
            }
            Action::Pdf { .. } => self.pdf().await,
            Action::Evaluate { expression } => self.evaluate(expression).await,
            Action::Dialog { accept, text } => self.dialog(*accept, text.as_deref()).await,
            Action::Cookies(cookies) => self.cookies(cookies).await,
            Action::Storage(storage) => self.storage(storage).await,
            Action::SetViewport { width, height } => self.set_viewport(*width, *height).await,
            Action::Tabs(tabs) => self.tabs(tabs).await,
        }
    }

    /// The document of the selected tab.
    pub(crate) fn page(&self) -> Result<Place, Failure> {
        let state = self.link.state();
        let tab = state.current.and_then(|id| state.tab(id)).ok_or(NO_TAB)?;
        if tab.crashed {
            return Err(CallError::Crashed.into());
        }
        Ok(Place { session: tab.session.clone(), frame: tab.main_frame() })
    }

    /// Asks something of the selected tab that changes nothing.
    pub(crate) async fn call<C: Command>(&self, command: &C) -> Result<C::Response, Failure> {
        let page = self.page()?;
        Ok(self.link.connection.call(Some(&page.session), command, self.deadline).await?)
    }

    /// Does something to the selected tab.
    pub(crate) async fn tell<C: Command>(&mut self, command: &C) -> Result<C::Response, Failure> {
        let page = self.page()?;
        self.touched = true;
        Ok(self.link.connection.call(Some(&page.session), command, self.deadline).await?)
    }

    async fn dialog(&mut self, accept: bool, text: Option<&str>) -> Result<Reply, Failure> {
        let tab = self.link.state().current;
        if open_dialog(self.link, tab).is_none() {
            return Err(Failure::Absent("no dialog is open"));
        }
        let closed_of = |state: &crate::state::State| state.tab(tab?).map(|tab| tab.dialogs_closed);
        let before = closed_of(&self.link.state());
        let answer = page::HandleJavaScriptDialogParams { accept, prompt_text: text.map(str::to_owned) };
        self.tell(&answer).await?;
        let closed = |state: &crate::state::State| {
            let crashed = tab.and_then(|tab| state.tab(tab)).is_none_or(|tab| tab.crashed);
            (crashed || closed_of(state) != before).then_some(())
        };
        self.link.until(self.deadline, closed).await?;
        self.settle().await;
        Ok(Reply::Nothing)
    }

    async fn set_viewport(&mut self, width: u32, height: u32) -> Result<Reply, Failure> {
        if !(1..=MAX_SIDE).contains(&width) || !(1..=MAX_SIDE).contains(&height) {
            return Err(Failure::Limit(format!("a viewport has 1 to {MAX_SIDE} pixels on each side")));
        }
        let metrics = emulation::SetDeviceMetricsOverrideParams::new(width, height, 1.0, false);
        self.tell(&metrics).await?;
        Ok(Reply::Nothing)
    }

    async fn tabs(&mut self, tabs: &Tabs) -> Result<Reply, Failure> {
        let known =
            |id: &TabId| self.link.state().tab(*id).map(|tab| (tab.target.clone(), tab.session.clone()));
        let no_such = Failure::Absent("no such tab");
        let connection = &self.link.connection;
        match tabs {
            Tabs::List {} => {}
            Tabs::New { url } => {
                let target = connection
                    .call(None, &target::CreateTargetParams::new("about:blank"), self.deadline)
                    .await?;
                let opened = |state: &crate::state::State| {
                    let tab = state.tabs.iter().find(|tab| tab.target == target.target_id)?;
                    state.world(&tab.session, &tab.main_frame()).map(|_| tab.id)
                };
                let id = self.link.until(self.deadline, opened).await?;
                self.link.state().current = Some(id);
                if let Some(url) = url {
                    return self.navigate(url, crate::action::WaitUntil::Load).await;
                }
            }
            Tabs::Select { id } => {
                let (_, session) = known(id).ok_or(no_such)?;
                connection.call(Some(&session), &page::BringToFrontParams {}, self.deadline).await?;
                self.link.state().current = Some(*id);
            }
            Tabs::Close { id } => {
                let (target, _) = known(id).ok_or(no_such)?;
                self.touched = true;
                connection.call(None, &target::CloseTargetParams::new(target), self.deadline).await?;
                self.link.until(self.deadline, |state| state.tab(*id).is_none().then_some(())).await?;
            }
        }
        self.list_tabs().await
    }

    async fn list_tabs(&self) -> Result<Reply, Failure> {
        let (tabs, current) = {
            let state = self.link.state();
            let tabs: Vec<_> =
                state.tabs.iter().map(|tab| (tab.id, tab.target.clone(), tab.crashed)).collect();
            (tabs, state.current)
        };
        let mut infos = Vec::with_capacity(tabs.len());
        for (id, target, crashed) in tabs {
            let TargetInfo { url, title, .. } = match target_info(self.link, &target, self.deadline).await {
                Ok(info) => info,
                // It closes just now.
                Err(CallError::Refused { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            infos.push(TabInfo { id, url, title, selected: current == Some(id), crashed });
        }
        Ok(Reply::Tabs(infos))
    }

    /// Where the selected tab is now.
    pub(crate) async fn whereabouts(&self) -> Result<Navigated, Failure> {
        let (target, status) = {
            let state = self.link.state();
            let tab = state.current.and_then(|id| state.tab(id)).ok_or(NO_TAB)?;
            (tab.target.clone(), tab.shown().and_then(|document| document.status))
        };
        let TargetInfo { url, title, .. } = target_info(self.link, &target, self.deadline).await?;
        Ok(Navigated { url, status, title })
    }

    async fn cookies(&mut self, cookies: &Cookies) -> Result<Reply, Failure> {
        let connection = &self.link.connection;
        match cookies {
            Cookies::Get {} => {
                let held =
                    connection.call(None, &storage::GetCookiesParams::default(), self.deadline).await?;
                return Ok(Reply::Cookies(held.cookies.into_iter().map(from_wire).collect()));
            }
            Cookies::Set { cookies } => {
                self.touched = true;
                let cookies: Vec<_> = cookies.iter().map(to_wire).collect();
                connection.call(None, &storage::SetCookiesParams::new(cookies), self.deadline).await?;
            }
            Cookies::Delete { name, domain } => {
                let url = if domain.is_none() { Some(self.whereabouts().await?.url) } else { None };
                let which = network::DeleteCookiesParams {
                    url,
                    domain: domain.clone(),
                    ..network::DeleteCookiesParams::new(name)
                };
                self.tell(&which).await?;
            }
            Cookies::Clear {} => {
                self.touched = true;
                connection.call(None, &storage::ClearCookiesParams::default(), self.deadline).await?;
            }
        }
        Ok(Reply::Nothing)
    }
}

fn to_wire(cookie: &crate::action::Cookie) -> network::CookieParam {
    network::CookieParam {
        url: cookie.url.clone(),
        domain: cookie.domain.clone(),
        path: cookie.path.clone(),
        expires: cookie.expires.map(network::TimeSinceEpoch::new),
        http_only: Some(cookie.http_only),
        secure: Some(cookie.secure),
        ..network::CookieParam::new(cookie.name.clone(), cookie.value.clone())
    }
}

fn from_wire(cookie: network::Cookie) -> crate::action::Cookie {
    crate::action::Cookie {
        name: cookie.name,
        value: cookie.value,
        domain: Some(cookie.domain),
        url: None,
        path: Some(cookie.path),
        expires: (!cookie.session).then_some(cookie.expires),
        http_only: cookie.http_only,
        secure: cookie.secure,
    }
}

async fn target_info(link: &Link, target: &TargetId, deadline: Instant) -> Result<TargetInfo, CallError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        target_info: TargetInfo,
    }
    let params = target::GetTargetInfoParams { target_id: Some(target.clone()) };
    let answer: Answer = link.connection.call_as(None, "Target.getTargetInfo", params, deadline).await?;
    Ok(answer.target_info)
}
