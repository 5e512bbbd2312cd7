//! The door from outside, without a socket and with a model of the sandbox.

use super::*;
use crate::config::{AuditPolicy, LedgerSync, McpPolicy};
use crate::service::tests::{House, KEY};
use axum::body::Body;
use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt as _;

struct Client {
    router: Router,
    _house: House,
    _audit: tempfile::TempDir,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap()
    }

    /// Its code, after the checks that every problem must pass.
    fn code(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let body = self.json();
        assert_eq!(body["status"], self.status);
        assert_eq!(body["request_id"], self.headers["x-request-id"].to_str().unwrap());
        assert!(body["title"].is_string() && body["detail"].is_string() && body["type"].is_string());
        body["code"].as_str().unwrap().to_owned()
    }
}

impl Client {
    async fn new() -> Self {
        let house = House::new();
        let directory = tempfile::tempdir().unwrap();
        let audit = Audit::start(directory.path(), AuditPolicy { file_bytes: 1 << 20, files: 2 }).unwrap();
        let service = house.service(LedgerSync::Process).await;
        let policy = McpPolicy::at(&["localhost"]);
        let mcp = mcp::Endpoint::new(service.clone(), audit.clone(), &policy);
        let router = router(service, audit, mcp, names::Names::new(&policy), None);
        Self { router, _house: house, _audit: directory }
    }

    async fn send(&self, request: axum::http::Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert!(response.headers()["x-request-id"].to_str().unwrap().starts_with("req_"));
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec();
        Answer { status, headers, bytes }
    }

    async fn raw(&self, method: &str, uri: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = axum::http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn get(&self, uri: &str) -> Answer {
        self.raw("GET", uri, &[("authorization", &format!("Bearer {KEY}"))], "").await
    }

    async fn post(&self, uri: &str, body: Value) -> Answer {
        self.post_text(uri, &body.to_string()).await
    }

    async fn post_text(&self, uri: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {KEY}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        self.raw("POST", uri, &headers, body.to_owned()).await
    }
}

#[tokio::test]
async fn a_life_of_a_session() {
    let client = Client::new().await;
    let created = client.post("/v1/sessions", json!({ "name": "n", "metadata": { "team": "blue" } })).await;
    assert_eq!(created.status, 201);
    let session = created.json();
    assert_eq!(session["status"], "active");
    assert_eq!(session["limits"]["cpu_cores"], 1.0);
    let uri = format!("/v1/sessions/{}", session["id"].as_str().unwrap());
    let execution =
        client.post(&format!("{uri}/executions"), json!({ "language": "python", "code": "use 3600" })).await;
    assert_eq!(execution.status, 200);
    let execution = execution.json();
    assert_eq!((&execution["status"], &execution["cost_picos"]), (&json!("succeeded"), &json!("89500")));
    let shown = client.get(&format!("{uri}/executions/{}", execution["id"].as_str().unwrap())).await;
    assert_eq!(shown.json(), execution);
    let listed = client.get(&format!("{uri}/executions?limit=1")).await.json();
    assert_eq!(listed["items"][0]["id"], execution["id"]);
    let tagged = client.get("/v1/sessions?status=active&metadata.team=blue").await.json();
    assert_eq!(tagged["items"][0]["id"], session["id"]);
    let records = client.get(&format!("{uri}/usage")).await.json();
    assert_eq!(records["items"][0]["execution_id"], execution["id"]);
    let days = client.get("/v1/usage?group_by=day").await.json();
    assert_eq!(days["items"][0]["cost_picos"], "89500");
    assert_eq!(client.get("/v1/prices").await.json()["currency"], "USD");
    let bearer = format!("Bearer {KEY}");
    let auth = [("authorization", bearer.as_str())];
    let deleted = client.raw("DELETE", &uri, &auth, "").await.json();
    assert_eq!((&deleted["status"], &deleted["close_reason"]), (&json!("closed"), &json!("client")));
    assert_eq!(client.raw("DELETE", &uri, &auth, "").await.json(), deleted);
    let late = client.post(&format!("{uri}/executions"), json!({ "language": "python", "code": "1" })).await;
    assert_eq!((late.status, late.code().as_str()), (410, "session_closed"));
    let run = client.post("/v1/run", json!({ "language": "javascript", "code": "use 1" })).await.json();
    assert_eq!((&run["status"], &run["language"]), (&json!("succeeded"), &json!("javascript")));
}

#[tokio::test]
async fn without_a_valid_key_there_is_one_answer() {
    let client = Client::new().await;
    let id = "ses_00000000000000000000000000";
    let mut answers = Vec::new();
    for authorization in
        ["", "Bearer", "Bearer ", "Bearer wrong", "Basic x", "bearer\tx", "Bearer 0123456789abcdeg"]
    {
        let headers = if authorization.is_empty() { vec![] } else { vec![("authorization", authorization)] };
        for (method, uri) in [("GET", "/v1/sessions".to_owned()), ("DELETE", format!("/v1/sessions/{id}"))] {
            let answer = client.raw(method, &uri, &headers, "").await;
            assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"), "{authorization}");
            let mut body = answer.json();
            body["request_id"].take();
            answers.push(body);
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
    assert_eq!(client.raw("GET", "/healthz", &[], "").await.status, 200);
    assert_eq!(client.raw("GET", "/readyz", &[], "").await.status, 200);
}

#[tokio::test]
async fn what_is_no_id_is_answered_like_an_unknown_id() {
    let client = Client::new().await;
    let mut answers = Vec::new();
    let unknown = "ses_00000000000000000000000000";
    for id in [unknown, "ses_", "x", "SES_00000000000000000000000000", "%ff", "exe_0", &"a".repeat(2000)] {
        for rest in [
            "",
            "/usage",
            "/executions",
            "/executions/exe_00000000000000000000000000",
            "/executions/x",
            "/files",
            "/files/a",
        ] {
            let answer = client.get(&format!("/v1/sessions/{id}{rest}")).await;
            assert_eq!((answer.status, answer.code().as_str()), (404, "session_not_found"), "{id}{rest}");
            let mut body = answer.json();
            body["request_id"].take();
            answers.push(body);
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1);
}

#[tokio::test]
async fn routes_are_what_is_documented() {
    let client = Client::new().await;
    let document = openapi::complete(routes().into_openapi());
    let mut ids = std::collections::HashSet::new();
    for (path, item) in &document.paths.paths {
        assert!(!path.contains('*'), "{path}");
        let uri: String =
            path.split('{').map(|part| part.split_once('}').map_or(part, |(_, rest)| rest)).collect();
        let uri = uri.replace("//", "/x/");
        let uri = if path.ends_with('}') { format!("{uri}x") } else { uri };
        let documented: Vec<_> = openapi::operations(item).collect();
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            let answer = client.raw(method, &uri, &[], "").await;
            match documented.iter().find(|(of, _)| *of == method) {
                Some((_, operation)) => {
                    let expected = if operation.security.is_none() { 401 } else { 200 };
                    assert_eq!(answer.status, expected, "{method} {uri}");
                    assert!(
                        ids.insert(operation.operation_id.clone()),
                        "{:?} is there twice",
                        operation.operation_id
                    );
                    assert!(operation.responses.responses.contains_key(&expected.to_string()));
                }
                // As every GET has it.
                None if method == "HEAD" && item.get.is_some() => {}
                None => {
                    assert_eq!(answer.status, 405, "{method} {uri}");
                    let allowed = answer.headers["allow"].to_str().unwrap();
                    for (method, _) in &documented {
                        assert!(allowed.split(',').any(|allowed| allowed == *method), "{uri}: {allowed}");
                    }
                }
            }
        }
    }
    // Nothing is registered in a way that does not document it, but for MCP, which describes itself, the WebSockets of
    // browsers and terminals, which the document has no words for, and the operator's metrics.
    let undocumented: Vec<_> = include_str!("../http.rs")
        .split(".route(\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let sockets = ["browser/cdp", "browser/live", "terminal"].map(|end| format!("/v1/sessions/{{id}}/{end}"));
    let [cdp, live, terminal] = &sockets;
    assert_eq!(undocumented, ["/mcp", cdp, live, terminal, "/metrics"]);
}

#[test]
fn every_recorded_example_is_shown() {
    let document = serde_json::to_string(&openapi::complete(routes().into_openapi())).unwrap();
    let examples: Vec<Value> = serde_json::from_str(include_str!("openapi/examples.json")).unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    let operations = || {
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values())
    };
    for example in examples {
        let operation = operations().find(|operation| operation["operationId"] == example["operation"]);
        let status = example["status"].to_string();
        let answer = &operation.unwrap()["responses"][&status];
        let contents = answer["content"].as_object().unwrap();
        let name = example["name"].as_str().unwrap();
        let shown = contents.values().any(|content| content["examples"][name]["value"] == example["answer"]);
        assert!(shown, "{name} of {}", example["operation"]);
    }
}

#[tokio::test]
async fn routes_methods_and_media_types() {
    let client = Client::new().await;
    let bearer = format!("Bearer {KEY}");
    let auth = ("authorization", bearer.as_str());
    for uri in ["/", "/v2/sessions", "/v1/sessions/", "/v1", "/v1/sessions/x/unknown", "/v1/run/x"] {
        let answer = client.get(uri).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{uri}");
    }
    for (method, uri) in
        [("DELETE", "/v1/sessions"), ("GET", "/v1/run"), ("BREW", "/v1/usage"), ("TRACE", "/healthz")]
    {
        let answer = client.raw(method, uri, &[auth], "").await;
        assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"), "{method} {uri}");
    }
    for kind in ["text/plain", "application/json; charset=latin1", "application/jsonp", "multipart/form-data"]
    {
        let answer = client.raw("POST", "/v1/run", &[auth, ("content-type", kind)], "{}").await;
        assert_eq!((answer.status, answer.code().as_str()), (415, "unsupported_media_type"), "{kind}");
    }
    let json = ("content-type", "application/json; charset=UTF-8");
    let answer = client.raw("POST", "/v1/run", &[auth, json, ("content-encoding", "gzip")], "{}").await;
    assert_eq!(answer.code(), "unsupported_media_type");
    assert_eq!(client.raw("POST", "/v1/run", &[auth], "{}").await.code(), "unsupported_media_type");
    assert_eq!(client.raw("POST", "/v1/sessions", &[auth], "").await.status, 201);
    assert_eq!(client.raw("POST", "/v1/sessions", &[auth, json], "{}").await.status, 201);
    let answer = client.raw("POST", "/v1/sessions", &[auth, json], vec![b' '; (1 << 20) + 1]).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "payload_too_large"));
}

#[tokio::test]
async fn heads_are_bounded() {
    let client = Client::new().await;
    let long = "x".repeat(17 * 1024);
    let answer = client.raw("GET", "/healthz", &[("x-long", &long)], "").await;
    assert_eq!((answer.status, answer.code().as_str()), (431, "headers_too_large"));
    let many: Vec<_> = (0..70).map(|i| (format!("x-{i}"), "1")).collect();
    let many: Vec<_> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    assert_eq!(client.raw("GET", "/healthz", &many, "").await.status, 431);
    for headers in [[("content-length", "2"), ("transfer-encoding", "chunked")]] {
        let answer = client.raw("POST", "/v1/run", &headers, "{}").await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "malformed"));
        assert_eq!(answer.headers["connection"], "close");
    }
    let absolute = client.raw("GET", "http://x/healthz", &[], "").await;
    assert_eq!((absolute.status, absolute.code().as_str()), (400, "malformed"));
}

#[tokio::test]
async fn what_cannot_be_granted_is_named() {
    let client = Client::new().await;
    let ok = json!({ "language": "python", "code": "1" });
    let cases = [
        ("unknown", json!(1)),
        ("language", json!("cobol")),
        ("language", json!("command")),
        ("language", json!("browser")),
        ("language", json!(null)),
        ("code", json!(null)),
        ("code", json!(1)),
        ("engine", json!("boa")),
        ("background", json!(true)),
        ("command", json!([])),
        ("timeout_seconds", json!(0)),
        ("timeout_seconds", json!(-1)),
        ("timeout_seconds", json!(1e18)),
        ("timeout_seconds", json!("5")),
        ("timeout_seconds", json!(61)),
        ("context", json!("a/b")),
        ("context", json!("")),
        ("cwd", json!("/etc")),
        ("cwd", json!("../x")),
        ("on_disconnect", json!("maybe")),
        ("env", json!([])),
        ("reset_context", json!("no")),
        ("network.mode", json!({ "mode": "everything" })),
        ("browser.viewport.width", json!({ "viewport": {} })),
        ("ttl_seconds", json!(1_000_000)),
        ("limits.cpu_cores", json!({ "cpu_cores": 0 })),
        ("limits.memory_bytes", json!({ "memory_bytes": 1u64 << 60 })),
        ("limits.processes", json!({ "processes": -1 })),
        ("limits.disk_bytes", json!({ "disk_bytes": 0.5 })),
        ("limits.gpu", json!({ "gpu": 1 })),
        ("env.1A", json!({ "1A": "x" })),
        ("metadata.k", json!({ "k": 1 })),
        ("files.0.path", json!([{ "path": "../x", "content": "" }])),
        ("files.0.content", json!([{ "path": "x" }])),
        ("return_files", json!(["/etc/passwd"])),
    ];
    for (field, value) in cases {
        let mut body = ok.clone();
        body[field.split('.').next().unwrap()] = value.clone();
        let answer = client.post("/v1/run", body).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, "invalid_request"), "{field} {value}");
        assert_eq!(answer.json()["errors"][0]["field"], field, "{value}: {}", answer.json());
    }
    let native =
        client.post("/v1/run", json!({ "language": "python", "code": "1", "runtime": "native" })).await;
    assert_eq!((native.status, native.code().as_str()), (503, "isolation_unavailable"));
    let boa = client.post("/v1/run", json!({ "language": "javascript", "code": "1", "engine": "boa" })).await;
    assert_eq!(boa.code(), "isolation_unavailable");
    let context = json!({ "language": "python", "code": "1", "context": "ctx_00000000000000000000000000" });
    assert_eq!(client.post("/v1/run", context).await.code(), "context_not_found");
    for text in ["{", "{\"code\":NaN}", "{\"code\":1,\"code\":2}", &"[".repeat(100_000)] {
        let answer = client.post_text("/v1/run", text).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "malformed"));
    }
    for query in ["limit=0", "limit=1001", "limit=x", "cursor=x", "status=open", "x=1", "limit=1&limit=1"] {
        let answer = client.get(&format!("/v1/sessions?{query}")).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, "invalid_request"), "{query}");
    }
    assert_eq!(client.get("/v1/usage?group_by=colour").await.status, 422);
    assert_eq!(client.get("/v1/sessions?status=%ff").await.code(), "malformed");
}

#[tokio::test]
async fn keys_answer_the_same_again() {
    let client = Client::new().await;
    let bearer = format!("Bearer {KEY}");
    let send = async |body: Value, key: &str| {
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", key),
        ];
        client.raw("POST", "/v1/run", &headers, body.to_string()).await
    };
    let body = json!({ "language": "python", "code": "use 5" });
    let first = send(body.clone(), "k").await;
    let again = send(body.clone(), "k").await;
    assert_eq!((again.status, &again.bytes), (200, &first.bytes));
    let other = send(json!({ "language": "python", "code": "use 6" }), "k").await;
    assert_eq!((other.status, other.code().as_str()), (409, "idempotency_conflict"));
    for key in ["", &"k".repeat(256), "\u{e4}"] {
        assert_eq!(send(body.clone(), key).await.code(), "invalid_request");
    }
}

#[tokio::test]
async fn a_panic_is_an_answer_with_an_id_and_nothing_else() {
    let client = Client::new().await;
    let answer = client.post("/v1/run", json!({ "language": "python", "code": "panic" })).await;
    assert_eq!((answer.status, answer.code().as_str()), (500, "internal"));
    assert!(!String::from_utf8_lossy(&answer.bytes).contains("mistake"));
    assert_eq!(client.get("/v1/sessions").await.status, 200);
}

#[tokio::test]
async fn paths_that_leave_are_refused_before_anything_is_asked() {
    let client = Client::new().await;
    let session = client.post("/v1/sessions", json!({})).await.json();
    let uri = format!("/v1/sessions/{}/files", session["id"].as_str().unwrap());
    let bearer = format!("Bearer {KEY}");
    for path in ["..", "a/../b", "%2e%2e/x", "%2e%2e%2fx", "a%00b", "%ff", "/etc/passwd", "a//b"] {
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let auth = [("authorization", bearer.as_str())];
            let answer = client.raw(method.as_str(), &format!("{uri}/{path}"), &auth, "").await;
            assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_path"), "{method} {path}");
        }
    }
    assert_eq!(client.get(&format!("{uri}?path=../x")).await.code(), "invalid_path");
    let away = client.get(&format!("{uri}/a")).await;
    assert_eq!((StatusCode::SERVICE_UNAVAILABLE.as_u16(), "capacity"), (away.status, away.code().as_str()));
    assert_eq!(away.headers["retry-after"], "1");
}
