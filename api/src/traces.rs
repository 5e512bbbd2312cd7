//! Spans of executions, sent to an OpenTelemetry collector when one is configured.
//!
//! An execution is one span with a child for each step: `queue`, `take`, `commit` (both only where a cell was taken),
//! `run`, `settle`. They are made when it is over, of the numbers that are billed: nothing is measured twice, and
//! without a collector it costs nothing. What clients and guests wrote is in no span.

use crate::ledger::Closing;
use anchorhold_sandbox::Taking;
use opentelemetry::trace::{
    Span as _, SpanBuilder, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use std::io::Read as _;
use std::time::{Duration, SystemTime};
use ureq::Agent;

/// The path that the protocol gives to spans, below the collector's address.
const PATH: &str = "/v1/traces";
/// How long a collector may take for a batch; meanwhile later ones wait, and beyond 2,048 spans they are dropped.
const TIMEOUT: Duration = Duration::from_secs(10);
/// What is read of a collector's answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Where spans go; cheap to clone. Nowhere by default.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// To the collector at this address, as `http://127.0.0.1:4318`.
    pub fn to(collector: &str) -> anyhow::Result<Self> {
        let config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .build();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Poster(config.new_agent()))
            .with_endpoint(format!("{}{PATH}", collector.trim_end_matches('/')))
            .with_timeout(TIMEOUT)
            .build()?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource =
            Resource::builder_empty().with_service_name("anchorhold").with_attribute(version).build();
        // Batches are sent by a thread of their own.
        Ok(Self(Some(
            SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter).build(),
        )))
    }

    /// An execution was closed, which took this long.
    pub fn execution(&self, closing: &Closing, settle: Duration) {
        let Some(provider) = &self.0 else { return };
        let tracer = provider.tracer("anchorhold");
        let ended_us = u64::try_from(closing.ended_us).unwrap_or(0);
        let started_us = ended_us.saturating_sub(closing.report.wall_us);
        let accepted_us = started_us.saturating_sub(closing.report.queued_us);
        let settled_us = ended_us.saturating_add(u64::try_from(settle.as_micros()).unwrap_or(0));
        let mut whole = tracer
            .span_builder("execution")
            .with_start_time(at(accepted_us))
            .with_attributes(attributes(closing))
            .start_with_context(&tracer, &Context::new());
        if closing.status == crate::words::ExecutionStatus::Lost {
            whole.set_status(Status::error("lost"));
        }
        let whole = Context::new().with_span(whole);
        let step = |name, from_us, to_us| step(&tracer, &whole, tracer.span_builder(name), from_us, to_us);
        let before_start = |us: u64| started_us.saturating_sub(us).max(accepted_us);
        match closing.taking {
            None => step("queue", accepted_us, started_us),
            Some(Taking { take_us, commit_us }) => {
                step("queue", accepted_us, before_start(take_us));
                step("take", before_start(take_us), before_start(commit_us));
                step("commit", before_start(commit_us), started_us);
            }
        }
        step("run", started_us, ended_us);
        step("settle", ended_us, settled_us);
        whole.span().end_with_timestamp(at(settled_us));
    }

    /// Sends what waits; nothing is sent afterwards. Blocks, at most a little longer than a batch may take.
    pub fn close(&self) {
        if let Some(Err(error)) = self.0.as_ref().map(|provider| provider.shutdown_with_timeout(TIMEOUT)) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

fn step(tracer: &SdkTracer, whole: &Context, span: SpanBuilder, from_us: u64, to_us: u64) {
    span.with_start_time(at(from_us)).start_with_context(tracer, whole).end_with_timestamp(at(to_us));
}

fn at(unix_us: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(unix_us)
}

/// Names and numbers of ours only.
fn attributes(closing: &Closing) -> Vec<KeyValue> {
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    vec![
        KeyValue::new("anchorhold.execution_id", format!("exe_{}", closing.id)),
        KeyValue::new("anchorhold.session_id", format!("ses_{}", closing.session)),
        KeyValue::new("anchorhold.tenant_id", format!("ten_{}", closing.tenant)),
        KeyValue::new("anchorhold.language", closing.place.language.as_str()),
        KeyValue::new("anchorhold.runtime", closing.place.runtime.as_str()),
        KeyValue::new("anchorhold.status", closing.status.as_str()),
        KeyValue::new("anchorhold.cpu_us", count(closing.report.cpu_us)),
        KeyValue::new("anchorhold.memory_peak_bytes", count(closing.report.memory_peak_bytes)),
    ]
}

/// The HTTP client that the exporter uses, from its own thread, where it may block.
#[derive(Debug)]
struct Poster(Agent);

#[async_trait::async_trait]
impl HttpClient for Poster {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, mut body) = self.0.run(request.map(|bytes| bytes.to_vec()))?.into_parts();
        let mut bytes = Vec::new();
        body.as_reader().take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(Response::from_parts(head, bytes.into()))
    }
}
