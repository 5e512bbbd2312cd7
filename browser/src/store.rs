//! Files that a page gets, what it leaves, and what its site stores.

use crate::action::{Area, Storage, Target};
use crate::connection::{CallError, Connection};
use crate::gate::{DOWNLOADS, in_workspace};
use crate::locate::Needs;
use crate::outcome::{Failure, Reply};
use crate::run::Step;
use chromiumoxide_cdp::cdp::browser_protocol::browser::{
    SetDownloadBehaviorBehavior, SetDownloadBehaviorParams,
};
use chromiumoxide_cdp::cdp::browser_protocol::dom::SetFileInputFilesParams;
use chromiumoxide_cdp::cdp::js_protocol::runtime::{EvaluateParams, RemoteObjectId};
use serde::Deserialize;
use serde_json::{Value, json};

/// Files of one upload.
const FILES_MAX: usize = 64;

/// Lets pages leave files in the workspace.
pub(crate) fn accept_downloads(connection: &Connection) {
    let accept = SetDownloadBehaviorParams {
        download_path: Some(DOWNLOADS.to_owned()),
        ..SetDownloadBehaviorParams::new(SetDownloadBehaviorBehavior::Allow)
    };
    connection.tell(None, &accept);
}

#[derive(Deserialize)]
struct Evaluated {
    result: Remote,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Remote {
    object_id: Option<RemoteObjectId>,
}

impl Step<'_> {
    pub(crate) async fn upload(&mut self, target: &Target, paths: &[String]) -> Result<Reply, Failure> {
        if paths.is_empty() || paths.len() > FILES_MAX {
            return Err(Failure::Limit(format!("an upload has 1 to {FILES_MAX} files")));
        }
        let files = paths.iter().map(|path| in_workspace(path)).collect::<Result<Vec<_>, _>>();
        let files = files.map_err(Failure::Limit)?;
        // Chromium takes a file that is not there for an empty one.
        if let Some(missing) =
            files.iter().find(|file| !std::fs::metadata(file).is_ok_and(|file| file.is_file()))
        {
            return Err(Failure::Limit(format!("{missing} is no file")));
        }
        let found = self.locate(target, Needs::FOCUS).await?;
        let call = format!("anchorhold.fileField({})", files.len());
        let said: String = self.ask(&found.place, &call).await?;
        if said != "done" {
            return Err(Failure::Unfit { target: target.to_string(), why: said });
        }
        let world = self.world(&found.place).await?;
        let field = EvaluateParams {
            unique_context_id: Some(world.unique),
            ..EvaluateParams::new("anchorhold.current()")
        };
        let (connection, session) = (&self.link.connection, Some(&found.place.session));
        let method = EvaluateParams::IDENTIFIER;
        let field: Evaluated = connection.call_as(session, method, &field, self.deadline).await?;
        self.touched = true;
        let give = SetFileInputFilesParams {
            object_id: Some(field.result.object_id.ok_or(CallError::Detached)?),
            ..SetFileInputFilesParams::new(files)
        };
        connection.call(session, &give, self.deadline).await?;
        self.settle().await;
        Ok(Reply::Nothing)
    }

    pub(crate) async fn storage(&mut self, storage: &Storage) -> Result<Reply, Failure> {
        let (area, what) = match storage {
            Storage::Get { area } => (area, "Object.fromEntries(Object.entries(area))".to_owned()),
            Storage::Set { area, items } => {
                let items = json!(items);
                (
                    area,
                    format!("Object.entries({items}).forEach(([name, value]) => area.setItem(name, value))"),
                )
            }
            Storage::Delete { area, name } => (area, format!("area.removeItem({})", json!(name))),
            Storage::Clear { area } => (area, "area.clear()".to_owned()),
        };
        let area = match area {
            Area::Local => "localStorage",
            Area::Session => "sessionStorage",
        };
        let page = self.page()?;
        let call = format!("((area) => ({what}))(window.{area})");
        match storage {
            Storage::Get { .. } => Ok(Reply::Value(self.ask::<Value>(&page, &call).await?)),
            _ => self.have::<Option<()>>(&page, &call).await.map(|_| Reply::Nothing),
        }
    }
}
