//! Readers: those that follow a node, and those that go from node to node.

use std::sync::Arc;
use std::time::Duration;

use seawall_proto::admin::v1 as admin;
use seawall_testkit::Dice;
use tokio::time::{sleep, timeout};
use tonic::Status;

use super::cursors::read_cursor;
use super::{ANSWER_WAIT, Channels, FOR_READERS, STREAMS, Shared, contents, first_offset, request};
use crate::history::{Event, Level, OutOfRange, Read};

/// Reads a stream of one node to its end and beyond, again and again.
pub(super) async fn follow(shared: Arc<Shared>, node: u64, stream: usize) {
    let cluster = &shared.cluster;
    let recorder = &cluster.recorder;
    let channels = Channels::new(cluster, FOR_READERS);
    let session = 100 + u32::try_from(node).unwrap_or(0) * 10 + u32::try_from(stream).unwrap_or(0);
    let mut place = 0;
    let mut dice = Dice::of(&[shared.seed, 4, node, stream as u64]);
    loop {
        sleep(Duration::from_millis(100 + dice.below(200))).await;
        if !cluster.slot(node).serves() {
            continue;
        }
        let mut start = recorder.now();
        let mut client = channels.log(node);
        let asked = client.consume_stream(request(stream, place, Level::Local));
        let mut answers = match timeout(ANSWER_WAIT, asked).await {
            Ok(Ok(answers)) => answers.into_inner(),
            Ok(Err(status)) => {
                note_range(&shared, session, node, stream, &mut place, &status);
                continue;
            }
            Err(_) => continue,
        };
        loop {
            // A node that was cut off says nothing: another connection may.
            match timeout(Duration::from_secs(4), answers.message()).await {
                Ok(Ok(Some(answer))) => {
                    let records = contents(&answer.records);
                    let end = recorder.now();
                    let from = Some(place);
                    place = answer.next_offset;
                    let end_offset = answer.end_offset;
                    let level = Level::Local;
                    recorder.note(Event::Read(Read {
                        session,
                        node,
                        stream,
                        level,
                        from,
                        start,
                        end,
                        records,
                        end_offset,
                    }));
                    start = end;
                }
                Ok(Err(status)) => {
                    note_range(&shared, session, node, stream, &mut place, &status);
                    break;
                }
                Ok(Ok(None)) | Err(_) => break,
            }
        }
    }
}

fn note_range(
    shared: &Shared,
    session: u32,
    node: u64,
    stream: usize,
    place: &mut u64,
    status: &Status,
) {
    let Some(first) = first_offset(status) else { return };
    let recorder = &shared.cluster.recorder;
    let end = recorder.now();
    let from = *place;
    recorder.note(Event::OutOfRange(OutOfRange { session, node, stream, from, first, end }));
    *place = first;
}

/// A reader that goes from node to node.
pub(super) struct Reader {
    shared: Arc<Shared>,
    session: u32,
    channels: Channels,
    dice: Dice,
    places: [u64; STREAMS.len()],
}

impl Reader {
    pub(super) fn new(shared: &Arc<Shared>, session: u32) -> Reader {
        Reader {
            shared: shared.clone(),
            session,
            channels: Channels::new(&shared.cluster, FOR_READERS),
            dice: Dice::of(&[shared.seed, 5, session.into()]),
            places: [0; STREAMS.len()],
        }
    }

    fn somewhere(&mut self) -> (u64, usize) {
        let serving = self.shared.cluster.serving();
        (*self.dice.pick(&serving), self.dice.index(STREAMS.len()))
    }

    /// Reads on at any node: each must know what the reader has seen.
    pub(super) async fn roam(mut self) {
        loop {
            sleep(Duration::from_millis(5 + self.dice.below(40))).await;
            let (node, stream) = self.somewhere();
            let place = self.places[stream];
            // A place within the stream, too: a node that lags has an answer there.
            let back = if self.dice.coin() { 1 + self.dice.below(10) } else { 0 };
            let from = place.saturating_sub(back);
            let read = self.read(node, stream, from, Level::AtLeast(place)).await;
            // Where records have gone, it goes on with those that are there.
            self.places[stream] = place.max(read.unwrap_or(place));
        }
    }

    /// Asks any node for what is newest, with its records or without.
    pub(super) async fn demand(mut self) {
        loop {
            sleep(Duration::from_millis(5 + self.dice.below(40))).await;
            let (node, stream) = self.somewhere();
            let place = self.places[stream];
            if self.dice.once_in(5) {
                let recorder = &self.shared.cluster.recorder;
                let client = self.channels.admin(node);
                let _silent = read_cursor(recorder, client, self.session, node, stream).await;
            } else if self.dice.coin() {
                self.ask_end(node, stream).await;
            } else if self.dice.once_in(10) {
                // What was seen long ago is the same now.
                let old = place.saturating_sub(self.dice.below(200));
                let _seen = self.read(node, stream, old, Level::Linearizable).await;
            } else {
                let read = self.read(node, stream, place, Level::Linearizable).await;
                self.places[stream] = read.unwrap_or(place);
            }
        }
    }

    /// Reads once. Returns where to read on, if that is known.
    async fn read(&self, node: u64, stream: usize, from: u64, level: Level) -> Option<u64> {
        let recorder = &self.shared.cluster.recorder;
        let start = recorder.now();
        let mut client = self.channels.log(node);
        let asked = client.consume(request(stream, from, level));
        match timeout(ANSWER_WAIT, asked).await.ok()? {
            Ok(answer) => {
                let answer = answer.into_inner();
                let end = recorder.now();
                recorder.note(Event::Read(Read {
                    session: self.session,
                    node,
                    stream,
                    level,
                    from: Some(from),
                    start,
                    end,
                    records: contents(&answer.records),
                    end_offset: answer.end_offset,
                }));
                Some(answer.next_offset)
            }
            Err(status) => {
                let mut place = from;
                note_range(&self.shared, self.session, node, stream, &mut place, &status);
                Some(place)
            }
        }
    }

    async fn ask_end(&self, node: u64, stream: usize) {
        let recorder = &self.shared.cluster.recorder;
        let start = recorder.now();
        let mut client = self.channels.admin(node);
        let request = admin::OffsetsRequest { stream: STREAMS[stream].to_owned(), local: false };
        if let Ok(Ok(answer)) = timeout(ANSWER_WAIT, client.offsets(request)).await {
            let end_offset = answer.into_inner().next_offset;
            let end = recorder.now();
            recorder.note(Event::Read(Read {
                session: self.session,
                node,
                stream,
                level: Level::Linearizable,
                from: None,
                start,
                end,
                records: Vec::new(),
                end_offset,
            }));
        }
    }
}
