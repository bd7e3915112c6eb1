//! `Outgo`: bounds the memory of answers on their way out. An answer with records takes room before
//! they are read from the log, and gives it back when its last byte is with the system. All
//! connections share the room.
//!
//! A client that does not read would keep the room for ever, and keep the others out. So while a
//! consumer waits for room, connections whose answers were not read for a while are closed.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tonic::body::Body;
use tonic::{Extensions, Status};

use crate::error::RequestError;
use crate::listen::ConnectInfo;
use crate::socket::Line;

/// An answer that waits longer for its client is not worth the wait of another client.
const PATIENCE: Duration = Duration::from_secs(20);

/// So many calls read records from the log at once. Each has an entry or two in its hands, which
/// have no room yet.
const READS_MAX: usize = 8;

/// The room for answers. Clones share it.
#[derive(Clone)]
pub(crate) struct Outgo {
    inner: Arc<Inner>,
}

struct Inner {
    /// A permit is a KiB. Calls get theirs in their order.
    free: Arc<Semaphore>,
    kib_max: u32,
    reads: Semaphore,
    patience: Duration,
    unread: Mutex<Unread>,
}

/// The answers that the transport has, the oldest first.
#[derive(Default)]
struct Unread {
    next: u64,
    answers: BTreeMap<u64, (Instant, Line)>,
}

impl Outgo {
    pub(crate) fn new(bytes_max: u64) -> Outgo {
        Outgo::with_patience(bytes_max, PATIENCE)
    }

    fn with_patience(bytes_max: u64, patience: Duration) -> Outgo {
        let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let kib_max = u32::try_from(bytes_max >> 10).unwrap_or(u32::MAX).clamp(1, most);
        let free = Arc::new(Semaphore::new(kib_max as usize));
        let reads = Semaphore::new(READS_MAX);
        let unread = Mutex::default();
        Outgo { inner: Arc::new(Inner { free, kib_max, reads, patience, unread }) }
    }

    /// Returns what gives room to the answers of one call.
    pub(crate) fn outlet(&self, extensions: &Extensions) -> Outlet {
        let info = extensions.get::<ConnectInfo>();
        let line = info.map(|info| info.line.clone()).unwrap_or_default();
        Outlet { outgo: self.clone(), line, next: Arc::default() }
    }

    fn kib(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.inner.kib_max)
    }

    /// Closes the connections with answers that have waited too long for their clients.
    fn cut_off(&self) {
        let mut count = 0;
        for (since, line) in self.unread().answers.values() {
            if since.elapsed() < self.inner.patience {
                break;
            }
            count += u32::from(line.hang_up());
        }
        if count > 0 {
            tracing::info!(
                connections = count,
                "closed, because their clients do not read, and others wait for room"
            );
        }
    }

    fn unread(&self) -> MutexGuard<'_, Unread> {
        self.inner.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room that a call has taken.
pub(crate) struct Room {
    permit: OwnedSemaphorePermit,
    outgo: Outgo,
}

impl Room {
    /// Returns whether so many bytes fit.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        self.permit.num_permits() >= self.outgo.kib(bytes) as usize
    }

    /// Splits off room for so many bytes, or what there is.
    pub(crate) fn split(&mut self, bytes: usize) -> Room {
        let kib = self.permit.num_permits().min(self.outgo.kib(bytes) as usize);
        // There are so many.
        let permit = self.permit.split(kib).unwrap_or_else(|| unreachable!("{kib} KiB are there"));
        Room { permit, outgo: self.outgo.clone() }
    }
}

/// Where the answers of one call get their room. Clones are of the same call.
#[derive(Clone)]
pub(crate) struct Outlet {
    outgo: Outgo,
    line: Line,
    /// The room of the answers that go into the next frame.
    next: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Outlet {
    /// Waits for room, in turn. Drop the room of this call first, unless an answer has it.
    ///
    /// One call of each connection waits at a time: a client with many calls is no more in the way
    /// of the others than a client with one.
    pub(crate) async fn room(&self, bytes: usize) -> Result<Room, RequestError> {
        let outgo = &self.outgo;
        // A call that needs no room waits for no other.
        let _turn = if bytes > 0 { self.line.turn().await } else { None };
        let free = outgo.inner.free.clone();
        let mut taken = pin!(free.acquire_many_owned(outgo.kib(bytes)));
        loop {
            match timeout(outgo.inner.patience / 20, taken.as_mut()).await {
                Ok(Ok(permit)) => return Ok(Room { permit, outgo: outgo.clone() }),
                // It is never closed.
                Ok(Err(_)) => return Err(RequestError::Stopping),
                Err(_) => outgo.cut_off(),
            }
        }
    }

    /// Waits until few enough others read from the log. Drop the result after the read. A read of
    /// no bytes needs no turn.
    pub(crate) async fn read_turn(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        if bytes == 0 {
            return None;
        }
        self.outgo.inner.reads.acquire().await.ok() // It is never closed.
    }

    /// Gives room to the next answer: until its last byte is with the system.
    pub(crate) fn give(&self, room: Room) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *next {
            Some(permit) => permit.merge(room.permit),
            None => *next = Some(room.permit),
        }
    }

    /// Ties bytes of answers to their room.
    fn tie(&self, bytes: Bytes) -> Bytes {
        let permit = self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(permit) = permit else { return bytes };
        let mut unread = self.outgo.unread();
        let number = unread.next;
        unread.next += 1;
        unread.answers.insert(number, (Instant::now(), self.line.clone()));
        drop(unread);
        Bytes::from_owner(Tied { bytes, number, outgo: self.outgo.clone(), _permit: permit })
    }
}

/// Bytes that the transport drops when they are sent, and their room.
struct Tied {
    bytes: Bytes,
    number: u64,
    outgo: Outgo,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Tied {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Tied {
    fn drop(&mut self) {
        self.outgo.unread().answers.remove(&self.number);
    }
}

/// Ties the answers of a call to their room, if it has an [`Outlet`].
pub(crate) fn carry(mut response: Response<Body>) -> Response<Body> {
    match response.extensions_mut().remove::<Outlet>() {
        None => response,
        Some(outlet) => response.map(|inner| Body::new(RoomyBody { inner, outlet })),
    }
}

/// The body of answers that have room.
struct RoomyBody {
    inner: Body,
    outlet: Outlet,
}

impl http_body::Body for RoomyBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let RoomyBody { inner, outlet } = &mut *self;
        let polled = Pin::new(inner).poll_frame(context);
        polled.map_ok(|frame| frame.map_data(|bytes| outlet.tie(bytes)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    /// No test takes longer. A test that does is stuck.
    const WATCHDOG: Duration = Duration::from_secs(60);

    fn outlet(outgo: &Outgo) -> Outlet {
        outgo.outlet(&Extensions::new())
    }

    /// Sends an answer. Returns its bytes as the transport has them.
    async fn send(outlet: &Outlet, bytes: usize) -> Bytes {
        let room = outlet.room(bytes).await.unwrap();
        outlet.give(room);
        let mut response = Response::new(Body::new(Full::new(Bytes::from(vec![7; bytes]))));
        response.extensions_mut().insert(outlet.clone());
        let frame = carry(response).into_body().frame().await.unwrap().unwrap();
        frame.into_data().unwrap()
    }

    #[tokio::test]
    async fn an_answer_has_its_room_until_its_last_byte_is_gone() {
        let test = async {
            let outgo = Outgo::new(64 << 10);
            let free = || outgo.inner.free.available_permits();
            let outlet = outlet(&outgo);
            let mut sent = send(&outlet, 10 << 10).await;
            assert_eq!(free(), 54);
            let rest = sent.split_off(5 << 10);
            drop(sent);
            assert_eq!(free(), 54, "a part of it is there");
            drop(rest);
            assert_eq!((free(), outgo.unread().answers.len()), (64, 0));
            // Several answers in one frame, and what was too much for the first.
            let mut room = outlet.room(20 << 10).await.unwrap();
            outlet.give(room.split(2 << 10));
            outlet.give(room.split(2 << 10));
            drop(room);
            let sent = outlet.tie(Bytes::from_static(b"both"));
            assert_eq!((&sent[..], free()), (&b"both"[..], 60));
            drop(sent);
            // A call that ends before its answer.
            outlet.give(outlet.room(1).await.unwrap());
            drop(outlet);
            assert_eq!(free(), 64);
        };
        timeout(WATCHDOG, test).await.expect("it is stuck");
    }

    #[tokio::test]
    async fn who_waits_for_room_gets_it_in_turn() {
        // Method: two answers that do not fit beside the first. The smaller one comes last.
        let test = async {
            let outgo = Outgo::new(64 << 10);
            let first = send(&outlet(&outgo), 60 << 10).await;
            let large = outlet(&outgo);
            let small = outlet(&outgo);
            let mut large = pin!(send(&large, 40 << 10));
            let mut small = pin!(send(&small, 1 << 10));
            assert!(timeout(Duration::from_millis(20), large.as_mut()).await.is_err());
            assert!(timeout(Duration::from_millis(20), small.as_mut()).await.is_err(), "its turn");
            drop(first);
            drop(large.await);
            drop(small.await);
            let all = outlet(&outgo).room(1 << 30).await.unwrap();
            assert!(all.fits(1 << 30), "more than all of the room is all of it");
        };
        timeout(WATCHDOG, test).await.expect("it is stuck");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_cut_off_if_another_waits() {
        // Method: two connections with an answer, one of them fresh; then a call without room.
        let test = async {
            let patience = Duration::from_millis(400);
            let outgo = Outgo::with_patience(64 << 10, patience);
            let stale = outlet(&outgo);
            let held = send(&stale, 40 << 10).await;
            tokio::time::sleep(2 * patience).await;
            assert!(!stale.line.is_told(), "no other call waits");
            let fresh = outlet(&outgo);
            let _read_soon = send(&fresh, 10 << 10).await;
            let waiting = outlet(&outgo);
            let mut waiting = pin!(waiting.room(30 << 10));
            while !stale.line.is_told() {
                assert!(timeout(patience / 10, waiting.as_mut()).await.is_err(), "no room");
            }
            assert!(!fresh.line.is_told());
            drop(held); // As the connection does when it closes.
            waiting.await.unwrap();
        };
        timeout(WATCHDOG, test).await.expect("it is stuck");
    }
}
