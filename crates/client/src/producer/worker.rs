//! The task of a producer: when to send, what a failure means, whom to tell.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::error::Error;
use crate::retry::{Failure, Path, Verdict};

use super::queue::{Batch, Open, Queue, Queued, Refused};
use super::session::{Event, Session};
use super::{ProducerBuilder, Shared};

/// How many commands are taken at a time.
const COMMANDS_MAX: usize = 256;

/// What the handle asks for.
#[derive(Debug)]
pub(crate) enum Command {
    Record(Queued),
    Flush(oneshot::Sender<Result<(), Error>>),
}

#[derive(Debug)]
pub(super) struct Worker {
    settings: ProducerBuilder,
    shared: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<Command>,
    open: Open,
    /// When the open batch is sent.
    linger_end: Option<Instant>,
    queue: Queue,
    session: Option<Session>,
    path: Path,
    /// When the next session may begin.
    reconnect_at: Instant,
    /// When the server last did something for this producer, or had nothing to do.
    progress: Instant,
    /// One batch at a time until one is answered: some batch was refused, and it must be certain
    /// which one.
    is_alone: bool,
    last_failure: Option<(Error, String)>,
    flushes: VecDeque<Flush>,
    /// The first error since the last flush.
    failed: Option<Error>,
}

#[derive(Debug)]
struct Flush {
    /// All batches below this number must be answered.
    number: u64,
    answer: oneshot::Sender<Result<(), Error>>,
}

impl Worker {
    pub(super) fn new(
        settings: ProducerBuilder,
        shared: Arc<Shared>,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Worker {
        let now = Instant::now();
        Worker {
            queue: Queue::new(settings.stream.clone()),
            path: Path::new(&settings.client.nodes),
            settings,
            shared,
            commands,
            open: Open::default(),
            linger_end: None,
            session: None,
            reconnect_at: now,
            progress: now,
            is_alone: false,
            last_failure: None,
            flushes: VecDeque::new(),
            failed: None,
        }
    }

    /// Works until the handle is dropped, or until nothing more can be sent.
    pub(super) async fn run(mut self) {
        let mut commands = Vec::with_capacity(COMMANDS_MAX);
        loop {
            self.act(Instant::now());
            if self.shared.ended.get().is_some() {
                break;
            }
            let wake = self.wake();
            tokio::select! {
                biased;
                event = next_event(&mut self.session) => self.on_event(event),
                count = self.commands.recv_many(&mut commands, COMMANDS_MAX) => {
                    if count == 0 {
                        return; // The handle is gone.
                    }
                    for command in commands.drain(..) {
                        self.on_command(command);
                    }
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
        self.refuse_rest().await;
    }

    /// Does what is due.
    fn act(&mut self, now: Instant) {
        if self.linger_end.is_some_and(|end| end <= now) && self.has_place() {
            self.close_batch();
        }
        let max = self.settings.client.nodes.config.attempt_max();
        if self.queue.sent() > 0 && now >= self.progress + max {
            let address = self.session.as_ref().map_or("", |session| &session.address);
            let failure = Failure::silent(address, max);
            self.on_failure(failure);
        }
        self.expire(now);
        if self.session.is_none() && !self.queue.is_empty() && now >= self.reconnect_at {
            self.connect(now);
        }
        self.send(now);
        self.settle_flushes();
    }

    /// When something is due next.
    fn wake(&self) -> Option<Instant> {
        let mut wake = self.linger_end.filter(|_| self.has_place());
        let mut at = |time: Instant| wake = Some(wake.map_or(time, |wake| wake.min(time)));
        if let Some(first) = self.queue.first() {
            at(first.deadline);
            if self.session.is_none() {
                at(self.reconnect_at);
            }
        }
        if self.queue.sent() > 0 {
            at(self.progress + self.settings.client.nodes.config.attempt_max());
        }
        wake
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Record(queued) => {
                let settings = &self.settings;
                if self.open.len() > 0 && self.open.bytes + queued.bytes > settings.batch_bytes_max
                {
                    self.close_batch();
                }
                if self.open.len() == 0 {
                    self.linger_end = Some(Instant::now() + self.settings.linger);
                }
                self.open.push(queued);
                let is_full = self.open.bytes >= self.settings.batch_bytes_max
                    || self.open.len() >= self.settings.batch_records_max;
                if is_full {
                    self.close_batch();
                }
            }
            Command::Flush(answer) => {
                self.close_batch();
                self.flushes.push_back(Flush { number: self.queue.next_number(), answer });
            }
        }
    }

    fn close_batch(&mut self) {
        self.linger_end = None;
        self.queue.close(std::mem::take(&mut self.open));
    }

    fn connect(&mut self, now: Instant) {
        match self.settings.client.nodes.pick() {
            Ok(node) => {
                self.session = Some(Session::start(node, self.settings.in_flight_max));
                self.progress = now;
            }
            Err(error) => self.end(error, Refused::None),
        }
    }

    /// Whether one more batch could be in flight. If not, the open one grows instead: a slow server
    /// gets fewer and larger batches.
    fn has_place(&self) -> bool {
        self.queue.len() < self.in_flight_max()
    }

    fn in_flight_max(&self) -> usize {
        if self.is_alone { 1 } else { self.settings.in_flight_max }
    }

    fn send(&mut self, now: Instant) {
        let max = self.in_flight_max();
        let Some(session) = &mut self.session else { return };
        while self.queue.sent() < max {
            if self.queue.sent() == 0 {
                self.progress = now;
            }
            let Some(request) = self.queue.send_next() else { return };
            if !session.send(request) {
                return; // The session tells its end.
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Answer(answer) => {
                self.progress = Instant::now();
                self.path.succeeded();
                self.is_alone = false;
                let address = self.session.as_ref().map_or("", |session| &session.address);
                self.settings.client.nodes.led(address);
                if let Err(what) = self.queue.answered(&answer) {
                    let stream = &self.settings.stream;
                    let failure = Failure::contradiction(address, stream, what);
                    self.session = None;
                    self.queue.lost(0);
                    self.end(failure.error, Refused::None);
                }
            }
            Event::End(status) => {
                let address = self.session.as_ref().map_or("", |session| &session.address);
                let failure = Failure::of(&status, address, &self.settings.stream);
                self.on_failure(failure.after(self.progress.elapsed()));
            }
        }
    }

    /// The session is over.
    fn on_failure(&mut self, failure: Failure) {
        let address = self.session.as_ref().map_or_else(String::new, |own| own.address.clone());
        let unsent = self.session.take().map_or(0, Session::stop);
        let sent = self.queue.sent();
        if failure.verdict == Verdict::Final && sent > 0 {
            return self.on_refusal(failure.error, unsent);
        }
        match failure.verdict {
            Verdict::NotSent => self.queue.not_sent(),
            Verdict::Wait(_) | Verdict::Redirect(_) => self.queue.put_off(unsent),
            _ => self.queue.lost(unsent),
        }
        let delay = self.path.failed(&self.settings.client.nodes, &address, &failure);
        self.retry_after(delay);
        self.last_failure = Some((failure.error, address));
    }

    /// Plans the next session. One is begun before the deadline of the first batch, if any can.
    fn retry_after(&mut self, delay: Duration) {
        let now = Instant::now();
        let left = self.queue.first().map(|first| first.deadline.saturating_duration_since(now));
        let delay = match (left, self.queue.first()) {
            (Some(left), Some(first)) if first.attempts < 2 => delay.min(left.mul_f64(0.75)),
            _ => delay,
        };
        self.reconnect_at = now + delay;
    }

    /// A batch was refused for good.
    fn on_refusal(&mut self, error: Error, unsent: usize) {
        match error {
            // The server has forgotten this producer, which was idle for long. Nothing that is in
            // flight was appended, and nothing can be: the sequences do not begin at 0.
            Error::ProducerUnknown { .. }
                if self.queue.is_all_known() && self.queue.has_begun() =>
            {
                self.queue.begin_epoch();
            }
            Error::BadRequest { .. } if self.queue.sent() > 1 => {
                self.queue.one_refused(unsent);
                self.is_alone = true;
            }
            Error::BadRequest { .. } if self.queue.is_first_in_doubt() => {
                self.queue.lost(unsent);
                let failed = self.queue.give_up(|_| error.clone());
                self.note(failed);
            }
            Error::BadRequest { .. } => {
                let failed = self.queue.refused(&error);
                self.note(failed);
            }
            error => {
                if !self.queue.is_all_known() {
                    self.queue.lost(unsent);
                }
                self.end(error, Refused::First);
            }
        }
    }

    /// Gives up batches whose time is over.
    fn expire(&mut self, now: Instant) {
        while self.queue.first().is_some_and(|first| first.deadline <= now) {
            // What is in flight may be appended even now.
            let unsent = self.session.take().map_or(0, Session::stop);
            self.queue.lost(unsent);
            let waited = self.settings.client.nodes.config.deadline;
            let stream = self.settings.stream.clone();
            let (source, address) = match self.last_failure.clone() {
                Some((error, address)) => (Some(Box::new(error)), address),
                None => (None, "no node".to_owned()),
            };
            let late = |first: &Batch| Error::Deadline {
                operation: "produce",
                stream: stream.clone(),
                address: address.clone(),
                attempts: first.attempts,
                waited,
                source: source.clone(),
            };
            let failed = self.queue.give_up(late);
            self.note(failed);
        }
    }

    fn note(&mut self, failed: Option<Error>) {
        if self.failed.is_none() {
            self.failed = failed;
        }
    }

    fn settle_flushes(&mut self) {
        let first = self.queue.first().map(|first| first.number);
        while let Some(flush) = self.flushes.front() {
            if first.is_some_and(|first| first < flush.number) {
                return;
            }
            let outcome = self.failed.take().map_or(Ok(()), Err);
            if let Some(flush) = self.flushes.pop_front() {
                drop(flush.answer.send(outcome));
            }
        }
    }

    /// Nothing more can be sent: all that waits gets the error.
    fn end(&mut self, error: Error, refused: Refused) {
        // First, so that a caller who is told here finds the producer ended.
        drop(self.shared.ended.set(error.clone()));
        self.shared.room.close();
        self.queue.end(&error, refused);
        let stream = self.settings.stream.clone();
        let ended = Error::Ended { stream, source: Box::new(error.clone()) };
        std::mem::take(&mut self.open).fail(&ended);
        self.linger_end = None;
        for flush in self.flushes.drain(..) {
            drop(flush.answer.send(Err(error.clone())));
        }
    }

    /// Answers what was queued before the handle knew of the end.
    async fn refuse_rest(&mut self) {
        self.commands.close();
        let Some(error) = self.shared.ended.get() else { return };
        let stream = self.settings.stream.clone();
        let ended = Error::Ended { stream, source: Box::new(error.clone()) };
        while let Some(command) = self.commands.recv().await {
            match command {
                Command::Record(queued) => drop(queued.answer.send(Err(ended.clone()))),
                Command::Flush(answer) => drop(answer.send(Err(ended.clone()))),
            }
        }
    }
}

async fn next_event(session: &mut Option<Session>) -> Event {
    match session {
        Some(session) => session.next().await,
        None => std::future::pending().await,
    }
}
