//! The one place where what went wrong becomes a status code (RFC 9457, `application/problem+json`).

use crate::service::Refusal;
use crate::tenant::Denied;
use crate::words::words;
use anchorhold_sandbox::FileError;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

words!(
    /// What went wrong, for programs. The names and their status codes are the contract.
    Code {
        /// A path that leaves the workspace, or is none.
        InvalidPath = "invalid_path",
        /// No archive that is unpacked.
        InvalidArchive = "invalid_archive",
        /// Not HTTP or not JSON.
        Malformed = "malformed",
        /// No key, or one that is not known.
        Unauthorized = "unauthorized",
        /// The key, or its tenant, may not do this.
        Forbidden = "forbidden",
        /// No such session for this tenant.
        SessionNotFound = "session_not_found",
        /// No such context.
        ContextNotFound = "context_not_found",
        /// No such execution.
        ExecutionNotFound = "execution_not_found",
        /// No such file.
        FileNotFound = "file_not_found",
        /// No such route.
        NotFound = "not_found",
        /// The route does not take this method.
        MethodNotAllowed = "method_not_allowed",
        /// Not a media type or encoding that the route takes.
        UnsupportedMediaType = "unsupported_media_type",
        /// The key was used for another request.
        IdempotencyConflict = "idempotency_conflict",
        /// Something is in the way.
        Conflict = "conflict",
        /// The session is over.
        SessionClosed = "session_closed",
        /// Nothing of the range is there.
        RangeNotSatisfiable = "range_not_satisfiable",
        /// Larger than what is taken.
        PayloadTooLarge = "payload_too_large",
        /// Headers beyond their limits.
        HeadersTooLarge = "headers_too_large",
        /// A field that cannot be granted, see `errors`.
        InvalidRequest = "invalid_request",
        /// Only regular files are read and replaced.
        NotRegularFile = "not_regular_file",
        /// An archive that needs more than an archive may.
        ArchiveLimit = "archive_limit",
        /// Too many requests within a second.
        RateLimited = "rate_limited",
        /// As many as the tenant may have.
        QuotaExceeded = "quota_exceeded",
        /// As many executions wait as may.
        ContextBusy = "context_busy",
        /// A mistake of ours.
        Internal = "internal",
        /// No room now.
        Capacity = "capacity",
        /// Cannot be run behind its walls here.
        IsolationUnavailable = "isolation_unavailable",
        /// Nothing can be recorded now.
        LedgerUnavailable = "ledger_unavailable",
        /// The service is being stopped.
        Draining = "draining",
    }
);

impl Code {
    /// The status and, for what passes, after how many seconds to try again.
    pub(crate) fn answer(self) -> (StatusCode, Option<u16>) {
        match self {
            Self::InvalidPath | Self::InvalidArchive | Self::Malformed => (StatusCode::BAD_REQUEST, None),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, None),
            Self::Forbidden => (StatusCode::FORBIDDEN, None),
            Self::SessionNotFound
            | Self::ContextNotFound
            | Self::ExecutionNotFound
            | Self::FileNotFound
            | Self::NotFound => (StatusCode::NOT_FOUND, None),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, None),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, None),
            Self::IdempotencyConflict | Self::Conflict => (StatusCode::CONFLICT, None),
            Self::SessionClosed => (StatusCode::GONE, None),
            Self::RangeNotSatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, None),
            Self::PayloadTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, None),
            Self::HeadersTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, None),
            Self::InvalidRequest | Self::NotRegularFile | Self::ArchiveLimit => {
                (StatusCode::UNPROCESSABLE_ENTITY, None)
            }
            Self::QuotaExceeded => (StatusCode::TOO_MANY_REQUESTS, Some(5)),
            Self::RateLimited | Self::ContextBusy => (StatusCode::TOO_MANY_REQUESTS, Some(1)),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, None),
            Self::Capacity => (StatusCode::SERVICE_UNAVAILABLE, Some(1)),
            Self::IsolationUnavailable | Self::LedgerUnavailable | Self::Draining => {
                (StatusCode::SERVICE_UNAVAILABLE, Some(5))
            }
        }
    }

    pub(super) fn status(self) -> StatusCode {
        self.answer().0
    }

    /// For people, always the same for a code.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::InvalidPath => "The path is not usable",
            Self::InvalidArchive => "The archive is refused",
            Self::Malformed => "The request cannot be read",
            Self::Unauthorized => "A valid key is needed",
            Self::Forbidden => "Not with this key",
            Self::SessionNotFound => "No such session",
            Self::ContextNotFound => "No such context",
            Self::ExecutionNotFound => "No such execution",
            Self::FileNotFound => "No such file",
            Self::NotFound => "No such route",
            Self::MethodNotAllowed => "The route does not take this method",
            Self::UnsupportedMediaType => "The route does not take this media type",
            Self::IdempotencyConflict => "The idempotency key was used for another request",
            Self::Conflict => "Something is in the way",
            Self::SessionClosed => "The session is closed",
            Self::RangeNotSatisfiable => "Nothing of the range is there",
            Self::PayloadTooLarge => "The request is too large",
            Self::HeadersTooLarge => "The headers are too large",
            Self::InvalidRequest => "The request cannot be granted",
            Self::NotRegularFile => "Not a regular file",
            Self::ArchiveLimit => "The archive goes beyond a limit",
            Self::RateLimited => "Too many requests",
            Self::QuotaExceeded => "The quota is used up",
            Self::ContextBusy => "Too many executions wait in this context",
            Self::Internal => "Internal error",
            Self::Capacity => "No room now",
            Self::IsolationUnavailable => "Cannot be run behind its walls here",
            Self::LedgerUnavailable => "Nothing can be recorded now",
            Self::Draining => "The service is being stopped",
        }
    }
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// Which one, as the request names it.
    pub(crate) field: String,
    /// Why.
    pub(crate) detail: String,
}

/// An answer that is an error. Turned into bytes by [`Problem::render`], where the request's id is known.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) detail: String,
    errors: Vec<FieldError>,
    /// The size of what a range was asked of.
    size: Option<u64>,
}

/// What went wrong (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody<'a> {
    /// `urn:anchorhold:error:` and the code.
    r#type: String,
    /// For people, always the same for a code.
    title: &'a str,
    /// The status of the answer.
    status: u16,
    /// For people, about this request.
    detail: &'a str,
    code: Code,
    /// As in `X-Request-Id`.
    request_id: &'a str,
    /// Which fields cannot be granted, with `invalid_request`.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), size: None }
    }

    /// One field that cannot be granted.
    pub(super) fn field(field: &str, detail: impl Into<String>) -> Self {
        Self::fields(vec![FieldError { field: field.to_owned(), detail: detail.into() }])
    }

    /// Fields that cannot be granted; there must be some.
    pub(super) fn fields(errors: Vec<FieldError>) -> Self {
        let detail = errors.first().map(|error| format!("{}: {}", error.field, error.detail));
        Self { code: Code::InvalidRequest, detail: detail.unwrap_or_default(), errors, size: None }
    }

    /// The same, about a part of the request.
    fn at(mut self, field: String) -> Self {
        let detail = self.detail;
        self.detail = format!("{field}: {detail}");
        self.errors = vec![FieldError { field, detail }];
        self
    }

    pub(super) fn render(&self, request_id: &str) -> Response {
        let (status, retry_after) = self.code.answer();
        let body = ProblemBody {
            r#type: format!("urn:anchorhold:error:{}", self.code),
            title: self.code.title(),
            status: status.as_u16(),
            detail: &self.detail,
            code: self.code,
            request_id,
            errors: &self.errors,
        };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(size) = self.size
            && let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}"))
        {
            headers.insert(header::CONTENT_RANGE, value);
        }
        if self.code == Code::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        let code = match refusal {
            Refusal::Invalid { field, why } => return Self::field(field, why),
            Refusal::SessionNotFound => Code::SessionNotFound,
            Refusal::ExecutionNotFound => Code::ExecutionNotFound,
            Refusal::ContextNotFound => Code::ContextNotFound,
            Refusal::SessionClosed => Code::SessionClosed,
            Refusal::KeyConflict => Code::IdempotencyConflict,
            Refusal::NotRunning | Refusal::ContextExists => Code::Conflict,
            Refusal::Streams => Code::Capacity,
            Refusal::ContextBusy => Code::ContextBusy,
            Refusal::Denied(Denied::Disabled) => Code::Forbidden,
            Refusal::Denied(Denied::Quota(..)) => Code::QuotaExceeded,
            Refusal::Denied(Denied::TooFast) => Code::RateLimited,
            Refusal::TenantNotFound | Refusal::KeyNotFound => Code::NotFound,
            Refusal::Conflict(_) => Code::Conflict,
            Refusal::Capacity(_) => Code::Capacity,
            Refusal::Isolation(_) => Code::IsolationUnavailable,
            Refusal::Ledger => Code::LedgerUnavailable,
            Refusal::Draining => Code::Draining,
            Refusal::TooLarge => Code::PayloadTooLarge,
            Refusal::File(error) => return error.into(),
            Refusal::Change { index, why } => {
                return Self::from(why).at(format!("operations.{index}"));
            }
            Refusal::Internal => Code::Internal,
        };
        Self::new(code, detail)
    }
}

impl From<FileError> for Problem {
    fn from(error: FileError) -> Self {
        let code = match error {
            FileError::NotFound => Code::FileNotFound,
            FileError::InvalidPath => Code::InvalidPath,
            FileError::NotRegular => Code::NotRegularFile,
            FileError::Conflict => Code::Conflict,
            FileError::NoSpace | FileError::TooMany => Code::PayloadTooLarge,
            FileError::Incomplete => Code::Malformed,
            FileError::Archive(_) => Code::InvalidArchive,
            FileError::ArchiveLimit(_) => Code::ArchiveLimit,
            FileError::OutOfRange(size) => {
                let problem = Self::new(Code::RangeNotSatisfiable, error.to_string());
                return Self { size: Some(size), ..problem };
            }
            FileError::Other(errno) => {
                tracing::warn!(errno, "a file operation failed");
                return Self::new(Code::Internal, "the file operation failed");
            }
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of API.md as far as it is implemented. Changing a line breaks clients.
    const GOLDEN: &str = "\
invalid_path 400
invalid_archive 400
malformed 400
unauthorized 401
forbidden 403
session_not_found 404
context_not_found 404
execution_not_found 404
file_not_found 404
not_found 404
method_not_allowed 405
unsupported_media_type 415
idempotency_conflict 409
conflict 409
session_closed 410
range_not_satisfiable 416
payload_too_large 413
headers_too_large 431
invalid_request 422
not_regular_file 422
archive_limit 422
rate_limited 429 retry
quota_exceeded 429 retry
context_busy 429 retry
internal 500
capacity 503 retry
isolation_unavailable 503 retry
ledger_unavailable 503 retry
draining 503 retry
";

    #[test]
    fn the_codes_are_the_contract() {
        let mut table = String::new();
        for code in Code::ALL {
            let (status, retry) = code.answer();
            let retry = if retry.is_some() { " retry" } else { "" };
            table.push_str(&format!("{code} {}{retry}\n", status.as_u16()));
        }
        assert_eq!(table, GOLDEN);
    }

    #[test]
    fn titles_differ() {
        let titles: std::collections::HashSet<_> = Code::ALL.iter().map(|code| code.title()).collect();
        assert_eq!(titles.len(), Code::ALL.len());
    }
}
