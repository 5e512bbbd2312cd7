//! Contexts as a client names, prepares, restarts and ends them.

use super::execution::context_key;
use super::once::{Answer, Await, Key};
use super::{Refusal, Service, context_id, now_us};
use crate::ledger::{Made, Once, Place};
use crate::tenant::Tenant;
use crate::words::{Engine, Language, Runtime};
use anchorhold_sandbox::{ExecutionId, Id, SessionId, WorkspacePath};
use serde::{Deserialize, Serialize};

/// What executions of a context get that say nothing else.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Defaults {
    /// Additions to the session's environment.
    pub env: Vec<(String, String)>,
    /// The working directory.
    #[serde(with = "path")]
    pub cwd: Option<WorkspacePath>,
}

/// How a path is written.
mod path {
    use anchorhold_sandbox::WorkspacePath;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(path: &Option<WorkspacePath>, to: S) -> Result<S::Ok, S::Error> {
        match path {
            Some(path) => to.serialize_some(&path.to_string()),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<WorkspacePath>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
    }
}

/// What a context is asked for with.
#[derive(Debug, Clone)]
pub struct ContextRequest {
    /// Its name, among those of the same language and runtime.
    pub name: String,
    /// Its language.
    pub language: Language,
    /// Which interpreter.
    pub engine: Option<Engine>,
    /// On what; the session's where omitted.
    pub runtime: Option<Runtime>,
    /// What its executions get.
    pub defaults: Defaults,
}

/// A context.
#[derive(Debug, Clone)]
pub struct ContextView {
    /// Its id.
    pub id: Id,
    /// Where it is.
    pub place: Place,
    /// What its executions get.
    pub defaults: Defaults,
    /// What it does.
    pub doing: Doing,
    /// Executions that wait for their turn.
    pub waiting: usize,
}

/// What a context does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It has no interpreter: none was needed yet, or the last one is gone.
    Nothing,
    /// It gets one, or loses it.
    Changing,
    /// It has one, with the state of what ran in it.
    Idle,
    /// It runs this.
    Running(ExecutionId),
}

impl Service {
    /// The contexts of a live session.
    pub async fn contexts(&self, tenant: &Tenant, session: SessionId) -> Result<Vec<ContextView>, Refusal> {
        let live = self.find(tenant, session).await?;
        let cells = live.cells.contexts();
        let views = live.contexts().into_iter().filter_map(|(place, defaults)| {
            let id = context_id(session, &place)?;
            let key = context_key(&place);
            let status = cells.iter().find(|status| status.key == key);
            let doing = match status.map(|status| (status.running, status.cell)) {
                None => Doing::Nothing,
                Some((Some(execution), _)) => Doing::Running(execution),
                Some((None, Some(_))) => Doing::Idle,
                Some((None, None)) => Doing::Changing,
            };
            Some(ContextView { id, place, defaults, doing, waiting: status.map_or(0, |s| s.waiting) })
        });
        Ok(views.collect())
    }

    /// Prepares a context; its interpreter is taken when something runs in it.
    pub async fn create_context(
        &self,
        tenant: &Tenant,
        session: SessionId,
        request: ContextRequest,
        key: Option<Key>,
    ) -> Result<ContextView, Refusal> {
        let (service, tenant) = (self.clone(), tenant.clone());
        let once = key.map(|key| key.of(tenant.id(), format!("contexts/{session}")));
        let answer = self.at_most_once(once.clone(), Await::End, async move {
            let (place, defaults) = service.make_context(&tenant, session, request, once).await?;
            Ok(Answer::Made(Made::Context(session, place, defaults)))
        });
        let Answer::Made(Made::Context(session, place, defaults)) = answer.await? else {
            return Err(Refusal::Internal);
        };
        let id = context_id(session, &place).ok_or(Refusal::Internal)?;
        Ok(ContextView { id, place, defaults, doing: Doing::Nothing, waiting: 0 })
    }

    async fn make_context(
        &self,
        tenant: &Tenant,
        session: SessionId,
        request: ContextRequest,
        once: Option<Once>,
    ) -> Result<(Place, Defaults), Refusal> {
        self.accepting()?;
        let live = self.find(tenant, session).await?;
        let runtime = request.runtime.unwrap_or(live.terms.runtime);
        let place = self.place_named(request.name, request.language, request.engine, runtime)?;
        let id = context_id(session, &place).ok_or(Refusal::Internal)?;
        live.add_context(id, &place, &request.defaults)?;
        let defaults = request.defaults;
        if let Err(error) =
            self.0.ledger.save_context(session, &place, &defaults, once.as_ref(), now_us()).await
        {
            live.remove_context(id);
            return Err(error.into());
        }
        Ok((place, defaults))
    }

    /// Ends the interpreter of a context: what runs in it is cancelled, what waits runs in a new one.
    pub async fn restart_context(&self, tenant: &Tenant, session: SessionId, id: Id) -> Result<(), Refusal> {
        let live = self.find(tenant, session).await?;
        let (place, _) = live.context(id).ok_or(Refusal::ContextNotFound)?;
        live.cells.restart(&context_key(&place));
        Ok(())
    }

    /// Ends a context with everything that runs and waits in it, and forgets it.
    pub async fn delete_context(&self, tenant: &Tenant, session: SessionId, id: Id) -> Result<(), Refusal> {
        let live = self.find(tenant, session).await?;
        let (place, _) = live.context(id).ok_or(Refusal::ContextNotFound)?;
        self.0.ledger.delete_context(session, &place).await?;
        live.remove_context(id);
        live.cells.remove(&context_key(&place));
        Ok(())
    }
}
