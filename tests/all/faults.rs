//! Fail closed: each step of building a cell is made to fail, and no cell comes of it.

use crate::Shared;
use anchorhold_tests::{Options, Server, host};
use anyhow::Result;
use serde_json::json;

tests!(every_missing_wall_refuses_the_cell);

fn every_missing_wall_refuses_the_cell(_: &Shared) -> Result<()> {
    for step in anchorhold_jail::fault::STEPS {
        let server = Server::start(Options::default().fault(step))?;
        let client = server.client()?;
        let run = client.post("/v1/run", &json!({"language": "javascript", "code": "1"}))?;
        assert_eq!(run.problem(503), "isolation_unavailable", "{step}: {}", run.text());
        assert!(host::cell_processes("anchorhold-").is_empty() || *step == "none", "{step} left a cell");
        server.stop()?;
    }
    Ok(())
}
