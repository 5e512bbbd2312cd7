//! The door for agents under the protocol's own test suite: as it is, and with the suite's fixtures behind it.
//!
//! What a run is expected to fail, and why, stands in `tests/mcp/conformance/`; a run fails when that is not the truth.

mod fixtures;

use super::*;
use crate::config::{AuditPolicy, LedgerSync};
use crate::http;
use crate::service::tests::{House as Model, KEY};
use axum::extract::Request as AnyRequest;
use axum::http::HeaderValue;
use fixtures::Fixtures;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The revisions whose requirements the suite knows.
const REVISIONS: [&str; 2] = ["2025-11-25", "2026-07-28"];

/// `make mcp-conformance` says where the suite is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs node and packages of npm: make mcp-conformance"]
async fn conformance() {
    let suite = PathBuf::from(std::env::var_os("MCP_CONFORMANCE").expect("MCP_CONFORMANCE names the suite"));
    let product = serve(Endpoint::new).await;
    let fixtures =
        serve(|service, audit, policy| Endpoint::with(service, audit, policy, Fixtures::new)).await;
    for revision in REVISIONS {
        for (name, address) in [("product", product), ("fixtures", fixtures)] {
            run(&suite, revision, name, address).await;
        }
    }
}

/// Serves a door to a model of the sandbox, to the end of the test.
async fn serve(door: impl FnOnce(Service, Audit, &McpPolicy) -> Endpoint) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let model = Model::new();
    let directory = tempfile::tempdir().unwrap();
    let audit = Audit::start(directory.path(), AuditPolicy { file_bytes: 1 << 20, files: 2 }).unwrap();
    let service = model.service(LedgerSync::Process).await;
    // The suite also calls as a page of this server would.
    let policy = McpPolicy { origins: vec![format!("http://{address}")], ..McpPolicy::at(&["127.0.0.1"]) };
    let door = door(service.clone(), audit.clone(), &policy);
    let names = http::names::Names::new(&policy);
    let router =
        http::router(service, audit, door, names, None).layer(axum::middleware::map_request(with_key));
    tokio::spawn(async move {
        let _kept = (model, directory);
        let (_stop, stopped) = watch::channel(false);
        crate::listen::serve(listener, router, 256, stopped).await;
    });
    address
}

/// The suite has no keys.
async fn with_key(mut request: AnyRequest) -> AnyRequest {
    let key = HeaderValue::from_str(&format!("Bearer {KEY}")).unwrap();
    request.headers_mut().insert(header::AUTHORIZATION, key);
    request
}

async fn run(suite: &Path, revision: &str, name: &str, address: SocketAddr) {
    let expected = format!("{}/../tests/mcp/conformance/{name}-{revision}.yml", env!("CARGO_MANIFEST_DIR"));
    let mut command = std::process::Command::new("node");
    command.arg(suite).args(["server", "--url", &format!("http://{address}/mcp")]);
    command.args(["--requirements", revision, "--expected-failures", &expected]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}, {revision}:\n{told}\n{complaints}");
    let sum = told.lines().rfind(|line| line.starts_with("Total:")).expect("no sum");
    println!("{name}, {revision}: as expected ({sum})");
}
