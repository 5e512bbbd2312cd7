//! At most once: requests with a key run once, whoever asks how often.
//!
//! While the first one runs, others with the same key wait for its answer. Afterwards the ledger knows the answer.
//! What was refused is not remembered.

use super::{Refusal, Service, live::lock};
use crate::ledger::{ExecutionRow, Made, Once, Remembered, Subject};
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// A client's key and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// As the client wrote it.
    pub text: String,
    /// Of the parsed request.
    pub hash: [u8; 32],
}

impl Key {
    pub(super) fn of(self, tenant: &str, route: impl Into<String>) -> Once {
        Once { tenant: tenant.to_owned(), route: route.into(), key: self.text, hash: self.hash }
    }
}

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Await {
    /// That the execution is recorded to run.
    Record,
    /// Its end.
    End,
}

/// What a request with a key is answered.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Made(Made),
    Execution(Arc<ExecutionRow>),
}

type Outcome = Option<Result<Answer, Refusal>>;
type Name = (String, String, String);

/// A request that is under way: the hash of it, and where its answer will be.
type Pending = ([u8; 32], watch::Receiver<Outcome>);

/// Requests with a key that are under way.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<HashMap<Name, Pending>>);

/// Takes the entry away when the request is over, however it ends.
struct Entry {
    service: Service,
    name: Name,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.service.0.once.0).remove(&self.name);
    }
}

impl Service {
    /// Runs `work` in a task of its own, or not at all if it ran or runs under the same key.
    pub(super) async fn at_most_once(
        &self,
        once: Option<Once>,
        awaited: Await,
        work: impl Future<Output = Result<Answer, Refusal>> + Send + 'static,
    ) -> Result<Answer, Refusal> {
        let Some(once) = once else {
            return self.0.work.spawn(work).await.unwrap_or(Err(Refusal::Internal));
        };
        let mut outcome = self.attach(once, awaited, work)?;
        let answer = outcome.wait_for(Option::is_some).await.map_err(|_| Refusal::Internal)?;
        answer.clone().unwrap_or(Err(Refusal::Internal))
    }

    fn attach(
        &self,
        once: Once,
        awaited: Await,
        work: impl Future<Output = Result<Answer, Refusal>> + Send + 'static,
    ) -> Result<watch::Receiver<Outcome>, Refusal> {
        let name = (once.tenant.clone(), once.route.clone(), once.key.clone());
        let (tell, outcome) = watch::channel(None);
        {
            let mut table = lock(&self.0.once.0);
            if let Some((hash, running)) = table.get(&name) {
                return if *hash == once.hash { Ok(running.clone()) } else { Err(Refusal::KeyConflict) };
            }
            table.insert(name.clone(), (once.hash, outcome.clone()));
        }
        let entry = Entry { service: self.clone(), name };
        self.0.work.spawn(async move {
            let answer = match entry.service.earlier(&once, awaited).await {
                Ok(None) => work.await,
                Ok(Some(answer)) => Ok(answer),
                Err(refusal) => Err(refusal),
            };
            // In this order: whoever finds no entry finds the answer in the ledger.
            drop(entry);
            tell.send_replace(Some(answer));
        });
        Ok(outcome)
    }

    /// The answer to an earlier request with this key.
    async fn earlier(&self, once: &Once, awaited: Await) -> Result<Option<Answer>, Refusal> {
        let Some(Remembered { hash, subject }) = self.0.ledger.remembered(once).await? else {
            return Ok(None);
        };
        if hash != once.hash {
            return Err(Refusal::KeyConflict);
        }
        let id = match subject {
            Subject::Made(made) => return Ok(Some(Answer::Made(made))),
            Subject::Execution(id) => id,
        };
        let row = self.0.ledger.execution_anywhere(id).await?.ok_or(Refusal::Internal)?;
        if row.ended_us.is_some() || awaited == Await::Record {
            return Ok(Some(Answer::Execution(Arc::new(row))));
        }
        // It is being recovered, or waits for the disk to have room.
        if let Some(live) = self.0.live.get(row.session) {
            live.execution_ended(id).await;
        }
        let row = self.0.ledger.execution_anywhere(id).await?.ok_or(Refusal::Internal)?;
        Ok(Some(Answer::Execution(Arc::new(row))))
    }
}
