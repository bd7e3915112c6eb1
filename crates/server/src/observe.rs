//! `Observe`: what surrounds each call: an id, a span, and its place in the metrics. What a call
//! asks for, and what it gets, is not looked at: no record appears in an event.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Instrument as _, Span};

use crate::metrics::{Method, Metrics};

/// The header with the id of a call: of the request, if its client chose one, and of the response.
const ID_HEADER: &str = "x-request-id";

/// A longer id of a client is replaced.
const ID_BYTES_MAX: usize = 64;

/// The layer around all services of a server.
#[derive(Clone)]
pub(crate) struct Observe {
    pub(crate) metrics: Metrics,
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, metrics: self.metrics.clone() }
    }
}

/// The services, with the layer around them.
#[derive(Clone)]
pub(crate) struct Observed<S> {
    inner: S,
    metrics: Metrics,
}

impl<S> Service<Request<Body>> for Observed<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<ObservedBody>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut call = Call::begin(&self.metrics, &request);
        let id = call.id.clone();
        let span = call.span.clone();
        let answer = span.in_scope(|| self.inner.call(request));
        let answer = async move {
            let mut response = answer.await?;
            // A call that fails at once has its status here, and no body.
            if let Some(status) = Status::from_header_map(response.headers()) {
                call.end(&status);
            }
            response.headers_mut().insert(ID_HEADER, id);
            Ok(response.map(|inner| ObservedBody { inner, call }))
        };
        Box::pin(answer.instrument(span))
    }
}

/// One call, from its begin to its end. A call that is dropped was given up by its client.
struct Call {
    metrics: Metrics,
    method: Arc<Method>,
    id: HeaderValue,
    span: Span,
    started: Instant,
    is_ended: bool,
}

impl Call {
    fn begin(metrics: &Metrics, request: &Request<Body>) -> Call {
        let method = metrics.method(request.uri().path());
        let id = id_of(request.headers());
        let text = id.to_str().unwrap_or_default();
        let span = tracing::debug_span!("call", id = text, %method, otel.kind = "server");
        #[cfg(feature = "otlp")]
        crate::otlp::continue_trace(&span, request.headers());
        metrics.call_began(&method);
        let metrics = metrics.clone();
        Call { metrics, method, id, span, started: Instant::now(), is_ended: false }
    }

    fn end(&mut self, status: &Status) {
        if self.is_ended {
            return;
        }
        self.is_ended = true;
        let took = self.started.elapsed();
        self.metrics.call_ended(&self.method, status.code(), took);
        let Call { method, id, .. } = self;
        let id = id.to_str().unwrap_or_default();
        let code = status.code();
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let reason = status.message();
        match code {
            Code::Ok => tracing::trace!(id, %method, took_us, "done"),
            // These are never the client's fault.
            Code::Internal | Code::Unknown | Code::DataLoss => {
                tracing::warn!(id, %method, took_us, ?code, reason, "a call has failed");
            }
            _ => tracing::debug!(id, %method, took_us, ?code, reason, "a call has failed"),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(&Status::cancelled("the client has gone"));
    }
}

/// The body of an answer. Its trailers have the outcome.
pub(crate) struct ObservedBody {
    inner: Body,
    call: Call,
}

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let ObservedBody { inner, call } = &mut *self;
        let span = call.span.clone();
        let _entered = span.enter();
        let polled = Pin::new(inner).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    call.end(&status);
                }
            }
            Poll::Ready(Some(Err(status))) => call.end(status),
            Poll::Ready(None) => call.end(&Status::unknown("the answer ended without a status")),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Returns the id that the client chose, if it is sane, else a new one.
fn id_of(headers: &HeaderMap) -> HeaderValue {
    let chosen = headers.get(ID_HEADER).filter(|id| is_sane(id.as_bytes()));
    chosen.cloned().unwrap_or_else(new_id)
}

fn is_sane(id: &[u8]) -> bool {
    (1..=ID_BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// Returns an id that no other call has: a number of this process, drawn once, and a count.
fn new_id() -> HeaderValue {
    static PROCESS: OnceLock<u64> = OnceLock::new();
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let process = PROCESS.get_or_init(|| RandomState::new().hash_one(std::process::id()));
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    // Digits and a dash are a header in any case.
    HeaderValue::try_from(format!("{process:016x}-{call:x}"))
        .unwrap_or(HeaderValue::from_static("none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_chooses_its_id_unless_it_could_harm_a_log() {
        let id = |chosen: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(ID_HEADER, HeaderValue::from_bytes(chosen).unwrap());
            id_of(&headers)
        };
        let longest = [b'a'; ID_BYTES_MAX];
        for sane in [&b"a"[..], b"7e1-\"{}", &longest] {
            assert_eq!(id(sane).as_bytes(), sane);
        }
        for other in [&b""[..], b"a b", b"a\tb", "é".as_bytes(), &[b'a'; ID_BYTES_MAX + 1]] {
            let new = id(other);
            assert!(is_sane(new.as_bytes()) && new.as_bytes() != other, "{new:?}");
        }
        assert_ne!(id_of(&HeaderMap::new()), id_of(&HeaderMap::new()));
    }
}
