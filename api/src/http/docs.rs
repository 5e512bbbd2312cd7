//! `/openapi.json` and `/docs`: the document for programs, and a page made from it for people.
//!
//! The page is one file without scripts, fonts or anything from elsewhere. Its examples are shell commands;
//! `tests/all/openapi.rs` runs each as it is printed.

mod page;

use super::Door;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use utoipa::openapi::OpenApi;

/// What both look like, made once.
#[derive(Debug)]
pub(super) struct Pages {
    document: Page,
    page: Page,
}

#[derive(Debug)]
struct Page {
    kind: &'static str,
    bytes: Bytes,
    /// A digest of the bytes.
    etag: String,
}

impl Pages {
    pub(super) fn new(document: &OpenApi) -> Self {
        let json = document.to_json().unwrap_or_else(|error| {
            tracing::error!(%error, "the API's document could not be written");
            String::new()
        });
        let html = page::render(document).into_string();
        Self {
            document: Page::new("application/json", json.into()),
            page: Page::new("text/html; charset=utf-8", html.into()),
        }
    }
}

impl Page {
    fn new(kind: &'static str, bytes: Bytes) -> Self {
        let digest = Sha256::digest(&bytes);
        let digest: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self { kind, bytes, etag: format!("\"{digest}\"") }
    }

    /// All of it, or that what the client has is still right.
    fn answer(&self, asked: &HeaderMap) -> Response {
        let known = asked.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok()).unwrap_or_default();
        let known = known.split(',').map(|tag| tag.trim().trim_start_matches("W/"));
        let mut response = if known.into_iter().any(|tag| tag == self.etag || tag == "*") {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(header::CONTENT_TYPE, self.kind)], self.bytes.clone()).into_response()
        };
        let headers = response.headers_mut();
        if let Ok(etag) = HeaderValue::from_str(&self.etag) {
            headers.insert(header::ETAG, etag);
        }
        // To be kept, and asked for each time: another version of the server has another document.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

/// This API as an OpenAPI 3.1 document
#[utoipa::path(
    get, path = "/openapi.json", tag = "Server", operation_id = "document", security(()),
    responses(
        (
            status = 200, description = "The document.", body = serde_json::Value,
            headers(("ETag" = String, description = "To be sent as `If-None-Match`")),
        ),
    ),
)]
pub(super) async fn document(State(door): State<Door>, headers: HeaderMap) -> Response {
    door.pages.document.answer(&headers)
}

/// This API as a page
#[utoipa::path(
    get, path = "/docs", tag = "Server", operation_id = "docs", security(()),
    responses(
        (
            status = 200, description = "The page.", content_type = "text/html", body = String,
            headers(("ETag" = String, description = "To be sent as `If-None-Match`")),
        ),
    ),
)]
pub(super) async fn page(State(door): State<Door>, headers: HeaderMap) -> Response {
    // Nothing but the page's own style: what a guest or a client wrote is never shown here.
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
                          frame-ancestors 'none'";
    const NAME: HeaderName = header::CONTENT_SECURITY_POLICY;
    let mut response = door.pages.page.answer(&headers);
    response.headers_mut().insert(NAME, HeaderValue::from_static(POLICY));
    response
}
