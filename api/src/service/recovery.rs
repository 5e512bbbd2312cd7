//! After a restart: what an earlier process of the service left open is taken up or closed.

use super::execution::context_key;
use super::live::Live;
use super::{Service, context_id, now_us};
use crate::ledger::{LedgerError, NewExecution, SessionRow};
use crate::words::{CloseReason, SessionStatus};
use anchorhold_sandbox::{Boottime, SessionId};
use std::collections::HashSet;
use std::sync::Arc;

impl Service {
    pub(super) async fn recover(&self) -> Result<(), LedgerError> {
        let mut survivors: HashSet<SessionId> = self.0.sandbox.survivors().into_iter().collect();
        let (mut adopted, mut ended) = (0, 0);
        for row in self.0.ledger.sessions_not_closed().await? {
            match self.end_of(&row, survivors.contains(&row.id)) {
                Some(reason) => {
                    self.end_without_cells(&row, reason).await?;
                    ended += 1;
                }
                None => {
                    survivors.remove(&row.id);
                    self.adopt(row).await?;
                    adopted += 1;
                }
            }
        }
        for &stray in &survivors {
            self.0.sandbox.end_stray(stray).await;
        }
        if adopted + ended + survivors.len() > 0 {
            tracing::info!(adopted, ended, strays = survivors.len(), "took up what an earlier process left");
        }
        Ok(())
    }

    /// Why a session cannot go on; `None`: it can.
    fn end_of(&self, row: &SessionRow, survives: bool) -> Option<CloseReason> {
        if row.boot_id != self.0.boot_id {
            return Some(CloseReason::HostRestart);
        }
        if survives {
            return None;
        }
        if row.status == SessionStatus::Closing {
            return row.close_reason.or(Some(CloseReason::Lost));
        }
        if Boottime::now() >= row.expires_boot {
            return Some(CloseReason::Expired);
        }
        // It had cells or files, and the warden knows of none: they went with an earlier warden.
        row.used.then_some(CloseReason::Lost)
    }

    async fn end_without_cells(&self, row: &SessionRow, reason: CloseReason) -> Result<(), LedgerError> {
        for open in self.0.ledger.executions_open(row.id).await? {
            let new = NewExecution {
                id: open.id,
                session: open.session,
                created_us: open.created_us,
                place: open.place,
            };
            let closing = self.lost(&new, &row.tenant);
            self.0.ledger.close_execution(&closing).await?;
        }
        self.0.ledger.end_session(row.id, reason, now_us(), None).await
    }

    async fn adopt(&self, row: SessionRow) -> Result<(), LedgerError> {
        let open = self.0.ledger.executions_open(row.id).await?;
        let cells = self.0.ledger.cells(row.id).await?;
        let living = cells.iter().filter(|cell| !cell.ended);
        let contexts = living.filter_map(|cell| Some((cell.id, context_key(cell.place.as_ref()?)))).collect();
        let recorded =
            |id| cells.iter().find(|cell| cell.id == id).map(|cell| cell.accounted).unwrap_or_default();

        let account = self.0.tenants.account(&row.tenant).ok_or(LedgerError::Stored("tenant"))?;
        let spec = self.spec(&account, &row);
        let session = self.0.sandbox.adopt(spec, contexts, recorded).await;
        // It counts, but what was admitted once is not refused now.
        let claim = account.resume_session(&row.terms.limits);
        let live = Arc::new(Live::new(&row, account, session, self.0.commands.clone()));
        for (place, defaults) in self.0.ledger.contexts(row.id).await? {
            if let Some(id) = context_id(row.id, &place) {
                let _known = live.add_context(id, &place, &defaults);
            }
        }
        for place in
            cells.iter().filter_map(|cell| cell.place.as_ref()).chain(open.iter().map(|row| &row.place))
        {
            live.knew(place);
        }
        self.0.live.insert(&live, claim);
        for execution in open {
            self.take_up(live.clone(), execution);
        }
        if row.status == SessionStatus::Closing {
            self.begin_close(&live, row.close_reason.unwrap_or(CloseReason::Lost));
        }
        Ok(())
    }
}
