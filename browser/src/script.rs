//! JavaScript in documents: our own, in its world apart, and the page's.

use crate::connection::CallError;
use crate::outcome::{Failure, MAX_VALUE_BYTES, Reply};
use crate::run::{Place, Step};
use crate::state::WorldId;
use chromiumoxide_cdp::cdp::browser_protocol::target::SessionId;
use chromiumoxide_cdp::cdp::js_protocol::runtime;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::time::{Duration, Instant};

/// Of what an exception says.
const EXCEPTION_CHARS: usize = 2000;
/// Names what evaluated expressions came to, until its value is fetched.
const EVALUATED: &str = "anchorhold";

/// An answer of `Runtime.evaluate` and `Runtime.callFunctionOn`. chromiumoxide's type would make a tree of the value at
/// once, many times as large as its text; here the text can be measured first.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Evaluated {
    result: Remote,
    exception_details: Option<Exception>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Remote {
    description: Option<String>,
    value: Option<Box<RawValue>>,
    object_id: Option<runtime::RemoteObjectId>,
}

#[derive(Deserialize)]
struct Exception {
    text: String,
    exception: Option<Remote>,
}

impl Evaluated {
    /// The value as JSON; `null` for what JSON cannot say.
    fn json(self) -> Result<Box<RawValue>, Failure> {
        if let Some(exception) = self.exception_details {
            return Err(Failure::Script(exception.says()));
        }
        Ok(self.result.value.unwrap_or_else(|| RawValue::NULL.to_owned()))
    }

    /// What of it is still in the page: an object that was not asked for by value.
    fn object(&mut self) -> Option<runtime::RemoteObjectId> {
        self.result.object_id.take().filter(|_| self.exception_details.is_none())
    }

    /// An answer of our own script. An exception there is a page that is not as ours expects it.
    pub(crate) fn read<R: DeserializeOwned>(self) -> Result<R, Failure> {
        let json = self.json()?;
        serde_json::from_str(json.get()).map_err(|error| CallError::Malformed(error.to_string()).into())
    }
}

impl Exception {
    fn says(self) -> String {
        let thrown = self.exception.and_then(|thrown| {
            thrown.description.or_else(|| thrown.value.map(|value| value.get().to_owned()))
        });
        thrown.unwrap_or(self.text).chars().take(EXCEPTION_CHARS).collect()
    }
}

impl Step<'_> {
    pub(crate) async fn world(&self, place: &Place) -> Result<WorldId, Failure> {
        let in_page = *place == self.page()?;
        if let Some(world) = self.link.state().world(&place.session, &place.frame).cloned() {
            return Ok(world);
        }
        // A page gets its world with its next document. A frame may never get one: it forbids scripts, or is gone.
        if !in_page {
            return Err(CallError::Detached.into());
        }
        Ok(self.link.until(self.deadline, |state| state.world(&place.session, &place.frame).cloned()).await?)
    }

    /// Asks our script in a document something that changes nothing; asks again when the document is replaced meanwhile.
    pub(crate) async fn ask<R: DeserializeOwned>(&mut self, place: &Place, call: &str) -> Result<R, Failure> {
        loop {
            let world = self.world(place).await?;
            match self.evaluate_in(place, &world, call).await {
                Err(Failure::Call(CallError::Refused { .. })) if *place == self.page()? => {
                    // The refusal may come before the news that explains it; without news it stands.
                    let soon = self.deadline.min(Instant::now() + Duration::from_millis(200));
                    let renewed = |state: &crate::state::State| {
                        (state.world(&place.session, &place.frame) != Some(&world)).then_some(())
                    };
                    if self.link.until(soon, renewed).await.is_err() {
                        return self.evaluate_in(place, &world, call).await;
                    }
                }
                answer => return answer,
            }
        }
    }

    /// Has our script do something to the element it found last.
    pub(crate) async fn have<R: DeserializeOwned>(
        &mut self,
        place: &Place,
        call: &str,
    ) -> Result<R, Failure> {
        let world = self.world(place).await?;
        self.touched = true;
        self.evaluate_in(place, &world, call).await
    }

    async fn evaluate_in<R: DeserializeOwned>(
        &self,
        place: &Place,
        world: &WorldId,
        call: &str,
    ) -> Result<R, Failure> {
        let evaluate = runtime::EvaluateParams {
            unique_context_id: Some(world.unique.clone()),
            await_promise: Some(true),
            return_by_value: Some(true),
            user_gesture: Some(true),
            ..runtime::EvaluateParams::new(call)
        };
        let method = runtime::EvaluateParams::IDENTIFIER;
        let session = Some(&place.session);
        let answer: Evaluated =
            self.link.connection.call_as(session, method, &evaluate, self.deadline).await?;
        answer.read()
    }

    pub(crate) async fn evaluate(&mut self, expression: &str) -> Result<Reply, Failure> {
        let page = self.page()?;
        self.touched = true;
        let answer = self.settled(&page.session, expression).await;
        if matches!(answer, Err(CallError::Deadline)) {
            // So that a loop without end does not cost the page.
            self.link.connection.tell(Some(&page.session), &runtime::TerminateExecutionParams {});
        }
        let value = answer?.json()?;
        if value.get().len() > MAX_VALUE_BYTES {
            return Err(Failure::Limit(format!("the value has more than {MAX_VALUE_BYTES} bytes")));
        }
        let value =
            serde_json::from_str(value.get()).map_err(|error| CallError::Malformed(error.to_string()))?;
        Ok(Reply::Value(value))
    }

    /// The value of an expression; of a promise, what it comes to. In two steps: a console, which the first one is like,
    /// shows a promise as it is.
    async fn settled(&self, session: &SessionId, expression: &str) -> Result<Evaluated, CallError> {
        let (connection, session) = (&self.link.connection, Some(session));
        let command = runtime::EvaluateParams {
            await_promise: Some(true),
            user_gesture: Some(true),
            object_group: Some(EVALUATED.to_owned()),
            // What the console of a browser does: `await` and declarations at the top, last value as the result.
            repl_mode: Some(true),
            ..runtime::EvaluateParams::new(expression)
        };
        let method = runtime::EvaluateParams::IDENTIFIER;
        let mut found: Evaluated = connection.call_as(session, method, &command, self.deadline).await?;
        let Some(object) = found.object() else { return Ok(found) };
        let command = runtime::CallFunctionOnParams {
            object_id: Some(object),
            await_promise: Some(true),
            return_by_value: Some(true),
            user_gesture: Some(true),
            ..runtime::CallFunctionOnParams::new("function() { 'use strict'; return this }")
        };
        let method = runtime::CallFunctionOnParams::IDENTIFIER;
        let settled = connection.call_as(session, method, &command, self.deadline).await;
        connection.tell(session, &runtime::ReleaseObjectGroupParams::new(EVALUATED));
        settled
    }
}
