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
        // A refused cell is killed at once, and gone a moment later.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(2);
        while !host::cell_processes(&server.cgroup()).is_empty() {
            assert!(
                std::time::Instant::now() < end,
                "{step} left {:?}",
                host::cell_processes(&server.cgroup())
            );
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        server.stop()?;
    }
    Ok(())
}
