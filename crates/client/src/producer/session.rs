//! One connection of a producer: requests go out, answers come in the same order.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use seawall_proto::log::v1::{ProduceRequest, ProduceResponse};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tonic::Status;

use crate::client::log_client;
use crate::nodes::Node;

/// What comes from the server.
#[derive(Debug)]
pub(super) enum Event {
    Answer(ProduceResponse),
    /// Nothing else comes.
    End(Status),
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) address: String,
    requests: mpsc::Sender<ProduceRequest>,
    /// How many requests were put into the channel.
    queued: usize,
    gate: Arc<Mutex<Gate>>,
    events: mpsc::Receiver<Event>,
    task: JoinHandle<()>,
}

impl Session {
    /// Begins to connect. `in_flight_max` requests can be sent before the first answer.
    pub(super) fn start(node: Node, in_flight_max: usize) -> Session {
        let (requests, outgoing) = mpsc::channel(in_flight_max);
        let (incoming, events) = mpsc::channel(in_flight_max + 1);
        let address = node.address.clone();
        let gate = Arc::default();
        let outgoing = Outgoing { requests: outgoing, gate: Arc::clone(&gate) };
        let task = tokio::spawn(run(node, outgoing, incoming));
        Session { address, requests, queued: 0, gate, events, task }
    }

    /// Ends the session. Returns how many of the last requests did not leave this program, and
    /// never will: the connection was not there yet.
    pub(super) fn stop(self) -> usize {
        let mut gate = lock(&self.gate);
        gate.is_shut = true;
        self.queued - gate.passed
    }

    /// Sends a request; false if the session has ended, which an event tells soon.
    pub(super) fn send(&mut self, request: ProduceRequest) -> bool {
        self.queued += 1;
        self.requests.try_send(request).is_ok()
    }

    pub(super) async fn next(&mut self) -> Event {
        let ended = || Event::End(Status::unavailable("the connection ended"));
        self.events.recv().await.unwrap_or_else(ended)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What has left the program.
#[derive(Debug, Default)]
struct Gate {
    passed: usize,
    is_shut: bool,
}

/// The requests as the connection takes them.
#[derive(Debug)]
struct Outgoing {
    requests: mpsc::Receiver<ProduceRequest>,
    gate: Arc<Mutex<Gate>>,
}

impl Stream for Outgoing {
    type Item = ProduceRequest;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<ProduceRequest>> {
        let own = &mut *self;
        // Held over the whole step, so that what `stop` says stays true.
        let mut gate = lock(&own.gate);
        if gate.is_shut {
            return Poll::Ready(None);
        }
        let request = ready!(own.requests.poll_recv(context));
        gate.passed += usize::from(request.is_some());
        Poll::Ready(request)
    }
}

fn lock(gate: &Mutex<Gate>) -> MutexGuard<'_, Gate> {
    gate.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn run(node: Node, outgoing: Outgoing, incoming: mpsc::Sender<Event>) {
    let mut log = log_client(node.channel);
    let end = match log.produce_stream(outgoing).await {
        Err(status) => status,
        Ok(answers) => {
            let mut answers = answers.into_inner();
            loop {
                match answers.message().await {
                    Ok(Some(answer)) if incoming.send(Event::Answer(answer)).await.is_ok() => {}
                    Ok(Some(_)) => return, // The producer does not want it any more.
                    Ok(None) => break Status::unavailable("the server ended the stream"),
                    Err(status) => break status,
                }
            }
        }
    };
    drop(incoming.send(Event::End(end)).await);
}
