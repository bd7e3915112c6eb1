//! `Intake`: what surrounds each call, and bounds the memory of requests on their way in. The queue
//! bounds them only after they are decoded and judged.
//!
//! Empty records and headers take many times their bytes once they are decoded. A call of the log
//! with one request is therefore decoded after the request is whole, and is judged at once then: a
//! client that never ends its request holds its bytes only. These bytes take room, and all
//! connections share the room. On their way out, answers take room of their own: see [`outgo`].

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tonic::body::Body;
use tonic::{Code, Status};
use tower_layer::Layer;
use tower_service::Service;

use crate::error::RequestError;
use crate::outgo;

/// The largest message with records: a batch of 1 MiB, and what encodes it.
pub(crate) const RECORDS_BYTES_MAX: usize = 3 << 19;

/// The largest message without records. Names have 128 bytes at most.
pub(crate) const QUESTION_BYTES_MAX: usize = 8 << 10;

const LOG_PREFIX: &str = "/log.v1.Log/";
const PRODUCE: &str = "/log.v1.Log/Produce";
const PRODUCE_STREAM: &str = "/log.v1.Log/ProduceStream";

/// What precedes each message: a flag, and its length in 4 bytes.
const HEAD_BYTES: usize = 5;

/// How long a message may take from its first byte to its last one, waits for room included.
const MESSAGE_WAIT: Duration = Duration::from_secs(30);

/// How long a call waits for room before it is refused. A stream waits longer: it slows down.
const ROOM_WAIT: Duration = Duration::from_secs(1);

/// The layer around all services of a server.
#[derive(Clone)]
pub(crate) struct Intake {
    room: Room,
}

impl Intake {
    /// Requests on their way in take twice `queue_bytes` at most: so much, because a request that is
    /// queued keeps its room here until it is answered.
    pub(crate) fn new(queue_bytes: u64) -> Intake {
        Intake { room: Room::new(queue_bytes.saturating_mul(2)) }
    }
}

impl<S> Layer<S> for Intake {
    type Service = Taken<S>;

    fn layer(&self, inner: S) -> Taken<S> {
        Taken { inner, room: self.room.clone() }
    }
}

/// The services, with the layer around them.
#[derive(Clone)]
pub(crate) struct Taken<S> {
    inner: S,
    room: Room,
}

impl<S> Service<Request<Body>> for Taken<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if path == PRODUCE_STREAM {
            let room = self.room.clone();
            let request = request.map(|body| Messages::new(body, room).into_body());
            return Box::pin(self.inner.call(request));
        }
        // The other services decode small messages only.
        if !path.starts_with(LOG_PREFIX) {
            return Box::pin(self.inner.call(request));
        }
        let mut held = (path == PRODUCE).then(|| Held::new(&self.room));
        let other = self.inner.clone();
        // The one that is ready.
        let mut inner = mem::replace(&mut self.inner, other);
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let whole = timeout(MESSAGE_WAIT, whole(body, held.as_mut())).await;
            match whole.unwrap_or_else(|_| Err(too_slow())) {
                Ok(bytes) => {
                    let body = Body::new(Full::new(bytes));
                    let answer = inner.call(Request::from_parts(parts, body)).await;
                    drop(held);
                    answer.map(outgo::carry)
                }
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

/// Reads a body to its end. With `held`, its bytes take room.
async fn whole(mut body: Body, mut held: Option<&mut Held>) -> Result<Bytes, Status> {
    let max = if held.is_some() { RECORDS_BYTES_MAX } else { QUESTION_BYTES_MAX };
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // Clients of the log send no trailers.
        let Ok(data) = frame.map_err(broken_off)?.into_data() else { continue };
        let len = bytes.len() + data.len();
        if len > HEAD_BYTES + max {
            let text = format!("the request is larger than the limit of {max} bytes");
            return Err(Status::out_of_range(text));
        }
        if let Some(held) = &mut held {
            held.grow(len, ROOM_WAIT).await?;
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// A request whose rest cannot be read is no fault of the server, whatever the transport says of it.
fn broken_off(status: Status) -> Status {
    match status.code() {
        Code::Unknown | Code::Internal => {
            // Not `Cancelled`: tonic takes that for the end of a stream.
            Status::unavailable(format!("the request broke off: {}", status.message()))
        }
        _ => status,
    }
}

fn too_slow() -> Status {
    let text = format!("the request was not whole after {} s", MESSAGE_WAIT.as_secs());
    Status::deadline_exceeded(text)
}

/// The memory that requests on their way in share. A permit is a KiB.
#[derive(Clone)]
struct Room {
    free: Arc<Semaphore>,
    bytes: u64,
}

impl Room {
    fn new(bytes: u64) -> Room {
        let kib = usize::try_from(bytes >> 10).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Room { free: Arc::new(Semaphore::new(kib)), bytes }
    }
}

/// The room that one call has taken.
struct Held {
    room: Room,
    permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    fn new(room: &Room) -> Held {
        Held { room: room.clone(), permit: None }
    }

    fn kib(&self) -> usize {
        self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Takes room up to `bytes`. Waits so long for it.
    async fn grow(&mut self, bytes: usize, wait: Duration) -> Result<(), Status> {
        let more = bytes.div_ceil(1024).saturating_sub(self.kib());
        if more == 0 {
            return Ok(());
        }
        let full = || Status::from(RequestError::QueueFull { bytes: self.room.bytes });
        let more = u32::try_from(more).map_err(|_| full())?;
        let free = self.room.free.clone();
        // The semaphore is never closed.
        let Ok(Ok(more)) = timeout(wait, free.acquire_many_owned(more)).await else {
            return Err(full());
        };
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        Ok(())
    }

    /// Gives room back, down to `bytes`.
    fn shrink(&mut self, bytes: usize) {
        let less = self.kib().saturating_sub(bytes.div_ceil(1024));
        drop(self.permit.as_mut().and_then(|permit| permit.split(less)));
    }
}

/// The messages of a stream. Its reader asks for more after it has queued each whole message, so
/// only the last one, which is not whole yet, takes room then.
struct Messages {
    body: Body,
    held: Held,
    partial: Partial,
    /// What is left of the time for the message that is not whole yet. A wait of the reader does not
    /// count: it is no fault of the client.
    patience: Duration,
}

impl Messages {
    fn new(body: Body, room: Room) -> Messages {
        let held = Held::new(&room);
        Messages { body, held, partial: Partial::default(), patience: MESSAGE_WAIT }
    }

    fn into_body(self) -> Body {
        let frames = stream::unfold(self, |mut messages| async move {
            let frame = messages.next().await?;
            Some((frame, messages))
        });
        Body::new(StreamBody::new(frames))
    }

    async fn next(&mut self) -> Option<Result<Frame<Bytes>, Status>> {
        self.held.shrink(self.partial.bytes);
        let start = Instant::now();
        let frame = if self.partial.bytes == 0 {
            self.body.frame().await?
        } else {
            match timeout(self.patience, self.body.frame()).await {
                Ok(frame) => frame?,
                Err(_) => return Some(Err(too_slow())),
            }
        };
        let frame = frame.map_err(broken_off);
        if self.partial.bytes > 0 {
            self.patience = self.patience.saturating_sub(start.elapsed());
        }
        let data = frame.as_ref().ok().and_then(Frame::data_ref);
        if let Some(data) = data {
            let bytes = self.partial.bytes + data.len();
            if let Err(full) = self.held.grow(bytes, MESSAGE_WAIT).await {
                return Some(Err(full));
            }
            if self.partial.advance(data) {
                self.patience = MESSAGE_WAIT;
            }
        }
        Some(frame)
    }
}

/// Where a stream is in its last message.
#[derive(Default)]
struct Partial {
    head: [u8; HEAD_BYTES],
    /// The bytes of the message that have come, its head included.
    bytes: usize,
}

impl Partial {
    /// Counts bytes. Returns whether a message has become whole.
    fn advance(&mut self, mut data: &[u8]) -> bool {
        let mut is_one_whole = false;
        while !data.is_empty() {
            let count = if self.bytes < HEAD_BYTES {
                let count = data.len().min(HEAD_BYTES - self.bytes);
                self.head[self.bytes..self.bytes + count].copy_from_slice(&data[..count]);
                count
            } else {
                data.len().min(self.message_bytes() - self.bytes)
            };
            self.bytes += count;
            data = &data[count..];
            if self.bytes >= HEAD_BYTES && self.bytes == self.message_bytes() {
                self.bytes = 0;
                is_one_whole = true;
            }
        }
        is_one_whole
    }

    /// The bytes of the whole message, once its head is there.
    fn message_bytes(&self) -> usize {
        let [_, length @ ..] = self.head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        HEAD_BYTES.saturating_add(length)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    fn message(len: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(len).unwrap().to_be_bytes());
        bytes.resize(HEAD_BYTES + len, 7);
        bytes
    }

    #[test]
    fn the_end_of_each_message_is_found_however_it_is_cut() {
        // Method: messages of several lengths, in parts of each length.
        let lengths = [0, 1, 5, 0, 300, 4];
        let all: Vec<u8> = lengths.iter().flat_map(|len| message(*len)).collect();
        for part in 1..=all.len() {
            let mut partial = Partial::default();
            let mut at = 0;
            for bytes in all.chunks(part) {
                partial.advance(bytes);
                at += bytes.len();
                // Where the last message ends that is whole.
                let whole: usize = lengths
                    .iter()
                    .scan(0, |sum, len| {
                        *sum += HEAD_BYTES + len;
                        Some(*sum)
                    })
                    .take_while(|end| *end <= at)
                    .last()
                    .unwrap_or(0);
                assert_eq!(partial.bytes, at - whole, "parts of {part}, at {at}");
            }
            assert_eq!(partial.bytes, 0);
        }
    }

    #[tokio::test]
    async fn a_stream_holds_room_for_what_its_reader_has_not_taken_and_no_more() {
        // Method: a body of one message and a half, in two frames; look at the room after each step.
        let room = Room::new(64 << 10);
        let first = [message(10 << 10), message(20 << 10)[..8 << 10].to_vec()].concat();
        let rest = message(20 << 10)[8 << 10..].to_vec();
        let frames = [first, rest].map(|bytes| Ok::<_, Status>(Frame::data(Bytes::from(bytes))));
        let endless = stream::iter(frames).chain(stream::pending());
        let body = Body::new(StreamBody::new(endless));
        let mut messages = Messages::new(body, room.clone());
        messages.next().await.unwrap().unwrap();
        assert_eq!(room.free.available_permits(), 64 - 19, "both are in the reader's hands");
        messages.next().await.unwrap().unwrap();
        assert_eq!(room.free.available_permits(), 64 - 21, "the first one is queued");
        let idle = timeout(Duration::from_millis(20), messages.next()).await;
        assert!(idle.is_err(), "a stream may wait for its client");
        assert_eq!(room.free.available_permits(), 64, "the second one is queued");
        drop(messages);
        assert_eq!(room.free.available_permits(), 64);
    }

    #[tokio::test]
    async fn a_request_that_breaks_off_is_no_fault_of_the_server() {
        // Method: a body that fails in a message, as the transport says it, read both ways.
        let body = || {
            let half = Frame::data(Bytes::from(message(100)[..50].to_vec()));
            let broken = Status::unknown("h2 protocol error: error reading a body");
            Body::new(StreamBody::new(stream::iter([Ok(half), Err(broken)])))
        };
        let room = Room::new(64 << 10);
        let status = whole(body(), Some(&mut Held::new(&room))).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        let mut messages = Messages::new(body(), room);
        messages.next().await.unwrap().unwrap();
        let status = messages.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }

    #[tokio::test]
    async fn a_message_that_never_ends_ends_its_stream() {
        // Method: half a message, and nothing after it, with little patience.
        let half = Frame::data(Bytes::from(message(100)[..50].to_vec()));
        let endless = stream::iter([Ok::<_, Status>(half)]).chain(stream::pending());
        let body = Body::new(StreamBody::new(endless));
        let mut messages = Messages::new(body, Room::new(64 << 10));
        messages.next().await.unwrap().unwrap();
        messages.patience = Duration::from_millis(20);
        let ended = timeout(Duration::from_secs(60), messages.next()).await.expect("it is stuck");
        assert_eq!(ended.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    }
}
