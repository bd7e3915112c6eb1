//! A writer with many requests under way in one call. Their answers come in the order of requests.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream;
use seawall_proto::log::v1 as log;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::Status;

use super::writers::{Asked, Writer};
use super::{ANSWER_WAIT, PRODUCE_WAIT_MS, is_refusal};
use crate::history::{Outcome, Sending};

/// The most requests under way.
const WINDOW_MAX: usize = 8;

pub(super) struct Streamer {
    writer: Writer,
    /// What was sent and has no answer, in order.
    waiting: VecDeque<Asked>,
}

impl Streamer {
    pub(super) fn new(writer: Writer) -> Streamer {
        Streamer { writer, waiting: VecDeque::new() }
    }

    /// Writes until the clients end, and all that may be repeated is answered.
    pub(super) async fn run(mut self) {
        let mut attempts = 0;
        while !self.stops() || !self.waiting.is_empty() {
            let node = self.writer.shared.target(&mut self.writer.dice, attempts);
            attempts = if self.through(node).await { 0 } else { attempts + 1 };
            if self.writer.sending == Sending::Once {
                // They are noted without an outcome.
                self.waiting.clear();
            }
            sleep(Duration::from_millis(5 + self.writer.dice.below(60))).await;
        }
    }

    fn stops(&self) -> bool {
        self.writer.shared.stop_writing.load(Ordering::Relaxed)
    }

    /// Writes through one call, until that breaks or it is given up. What an earlier call has left
    /// is sent again first. Returns whether anything was acknowledged.
    async fn through(&mut self, node: u64) -> bool {
        let window = 1 + self.writer.dice.index(WINDOW_MAX);
        // There is always room: no more than this waits for an answer.
        let (sender, receiver) = mpsc::channel(WINDOW_MAX);
        for own in &mut self.waiting {
            let _room = sender.try_send(own.send());
        }
        let requests = stream::unfold(receiver, async |mut receiver| {
            let request: log::ProduceRequest = receiver.recv().await?;
            Some((request, receiver))
        });
        let mut client = self.writer.channels.log(node);
        let mut answers = match timeout(ANSWER_WAIT, client.produce_stream(requests)).await {
            Ok(Ok(answers)) => answers.into_inner(),
            Ok(Err(status)) => {
                self.writer.shared.learn(&status);
                return false;
            }
            Err(_) => return false,
        };
        let mut is_of_use = false;
        loop {
            while self.waiting.len() < window && !self.stops() {
                let mut next = self.writer.ask();
                let _room = sender.try_send(next.send());
                self.waiting.push_back(next);
            }
            // Now and then the writer breaks off with requests under way.
            if self.waiting.is_empty() || self.writer.dice.once_in(60) {
                return is_of_use;
            }
            let wait = Duration::from_millis(*self.writer.dice.pick(&PRODUCE_WAIT_MS));
            match timeout(wait, answers.message()).await {
                Ok(Ok(Some(answer))) => {
                    is_of_use = true;
                    let Some(mut own) = self.waiting.pop_front() else { return is_of_use };
                    self.writer.shared.acknowledge(&mut own.produce, node, &answer);
                }
                Ok(Err(status)) => {
                    self.fail(&status);
                    return is_of_use;
                }
                Ok(Ok(None)) | Err(_) => return is_of_use,
            }
            sleep(Duration::from_millis(self.writer.dice.below(20))).await;
        }
    }

    /// An error is the answer to the oldest request. Of those behind it nothing is known.
    fn fail(&mut self, status: &Status) {
        self.writer.shared.learn(status);
        if self.writer.sending == Sending::Once
            && is_refusal(status)
            && let Some(mut own) = self.waiting.pop_front()
        {
            own.produce.outcome = Outcome::Refused;
        }
    }
}
