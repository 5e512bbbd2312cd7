//! The size of windows, where a session wants another one than its browser started with.

use crate::connection::{CallError, Connection};
use chromiumoxide_cdp::cdp::browser_protocol::browser::{
    Bounds, GetWindowForTargetParams, GetWindowForTargetReturns, SetWindowBoundsParams,
};
use chromiumoxide_cdp::cdp::browser_protocol::target::SessionId;
use std::time::Instant;

/// Width and height, in CSS pixels.
type Size = (i64, i64);

/// Windows of the usual size get another one. Those for which a page asked for a size of their own keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizing {
    usual: Size,
    wanted: Size,
}

impl Sizing {
    /// What is usual is how large the window of this page is now.
    pub(crate) async fn learn(
        connection: &Connection,
        session: &SessionId,
        wanted: Size,
        deadline: Instant,
    ) -> Result<Sizing, CallError> {
        let usual = size(&window(connection, session, deadline).await?);
        Ok(Sizing { usual, wanted })
    }

    /// Gives the window of a page its size.
    pub(crate) async fn apply(
        self,
        connection: &Connection,
        session: &SessionId,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let window = window(connection, session, deadline).await?;
        if size(&window) != self.usual {
            return Ok(());
        }
        let (width, height) = self.wanted;
        let bounds = Bounds { width: Some(width), height: Some(height), ..Bounds::default() };
        connection.call(None, &SetWindowBoundsParams::new(window.window_id, bounds), deadline).await.map(drop)
    }
}

async fn window(
    connection: &Connection,
    session: &SessionId,
    deadline: Instant,
) -> Result<GetWindowForTargetReturns, CallError> {
    connection.call(Some(session), &GetWindowForTargetParams::default(), deadline).await
}

fn size(window: &GetWindowForTargetReturns) -> Size {
    (window.bounds.width.unwrap_or(0), window.bounds.height.unwrap_or(0))
}
