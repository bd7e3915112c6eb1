//! Spans of calls for a collector, over OTLP. Only with the feature `otlp`.

use http::HeaderMap;
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, Tracer};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The variables that name the collector. One of them is enough.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// Sends spans to a collector, as long as it lives. [`end`](Spans::end) sends the last ones.
pub struct Spans {
    provider: SdkTracerProvider,
}

impl Spans {
    /// Starts to send spans, if a variable of the environment names the collector. Call it within a
    /// tokio runtime, once in a process.
    ///
    /// # Errors
    /// The address of the collector makes no sense.
    pub fn start() -> Result<Option<Spans>, String> {
        if ENDPOINTS.iter().all(|name| std::env::var_os(name).is_none_or(|value| value.is_empty()))
        {
            return Ok(None);
        }
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().build();
        let exporter = exporter.map_err(|error| error.to_string())?;
        let resource = Resource::builder().with_service_name("seawalld").build();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_batch_exporter(exporter)
            .build();
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        Ok(Some(Spans { provider }))
    }

    /// Returns what a layer of `tracing-opentelemetry` needs.
    #[must_use]
    pub fn tracer(&self) -> Tracer {
        self.provider.tracer("seawalld")
    }

    /// Sends the last spans. Blocks for some seconds at most. Call it while the runtime lives.
    ///
    /// # Errors
    /// The collector did not take them.
    pub fn end(self) -> Result<(), String> {
        self.provider.shutdown().map_err(|error| error.to_string())
    }
}

/// Makes the span a part of its client's trace, if the request names one.
pub(crate) fn continue_trace(span: &Span, headers: &HeaderMap) {
    let context = opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.extract(&Headers(headers))
    });
    // A span that is not sent has no parent.
    let _unsent = span.set_parent(context);
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}
