//! Histories that quickcheck draws, and what they become beside the state of the model.

use std::collections::BTreeMap;

use quickcheck::{Arbitrary, Gen};

use super::model::Model;
use super::*;

static BIG: [u8; 70_000] = [7; 70_000];
const STREAMS: [&str; 9] = ["default", "default", "a", "a", "b", "c", "d", "not this", ""];
const PRODUCERS: [&str; 5] = ["p", "q", "r", "s", "t"];
const CURSORS: [&str; 4] = ["x", "y", "z", "not this"];

#[derive(Clone, Debug)]
pub(super) struct History {
    pub(super) entries: Vec<Entry>,
}

/// An entry of the log: how far its index is above the last one, and what it asks for. None: no
/// command.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    gap: Gap,
    acts: Option<Vec<Act>>,
}

#[derive(Clone, Copy, Debug)]
enum Gap {
    Next,
    By(u64),
    /// To the next multiple of 1,024, and by the number below it, or to the one above.
    Boundary(u64),
    Far,
}

#[derive(Clone, Debug)]
enum Act {
    Append(Draw),
    /// The same append many times, each with the next sequence.
    Burst(Draw, u8),
    Create(&'static str, StoredLimits),
    Delete(&'static str),
    SetLimits(&'static str, StoredLimits),
    Trim(&'static str, u8),
    Commit(&'static str, &'static str, u8),
    Purge(u16),
    Unknown,
}

#[derive(Clone, Debug)]
struct Draw {
    stream: &'static str,
    records: u8,
    value: &'static [u8],
    producer: &'static str,
    epoch_up: u64,
    /// Added to the next sequence.
    sequence_by: i64,
    /// Added to the next offset.
    expected_by: Option<i64>,
    time_by: i64,
}

fn pick<T: Copy>(g: &mut Gen, values: &[T]) -> T {
    *g.choose(values).expect("there are some")
}

impl Draw {
    fn any(g: &mut Gen) -> Draw {
        Draw {
            stream: pick(g, &STREAMS),
            records: pick(g, &[0, 1, 1, 1, 2, 3, 5]),
            value: pick(g, &[&b""[..], b"v", b"value", b"value", &BIG]),
            producer: if bool::arbitrary(g) { "" } else { pick(g, &PRODUCERS) },
            epoch_up: pick(g, &[0, 0, 0, 0, 0, 0, 1]),
            sequence_by: pick(g, &[0, 0, 0, 0, 0, -1, -2, -64, -65, 1]),
            expected_by: pick(g, &[None, None, None, Some(0), Some(0), Some(1), Some(-1)]),
            time_by: pick(g, &[0, 1, 1, 5, 30, 100, 150, -20, -1_000, 1 << 33]),
        }
    }

    fn append(&self, now: &Model, number: &mut u64) -> Action {
        let stream = now.streams.get(self.stream);
        let known = stream.and_then(|stream| stream.producers.get(self.producer));
        let epoch = known.map_or(3, |producer| producer.epoch);
        let is_known_epoch = self.epoch_up == 0;
        let accepted = known.filter(|_| is_known_epoch).map_or(0, |known| known.accepted.len());
        let next = stream.map_or(0, |stream| stream.next());
        let records = (0..self.records).map(|at| {
            *number += 1;
            let mut record = record(*number, self.value);
            if at == 1 {
                let header = seawall_proto::store::v1::StoredHeader {
                    name: "name".to_owned(),
                    value: Bytes::from_static(b"header"),
                };
                record.headers = vec![header];
            }
            record
        });
        Action::Append(Append {
            stream: self.stream.to_owned(),
            timestamp_ms: now.last_ms.saturating_add_signed(self.time_by),
            records: records.collect(),
            producer_id: self.producer.to_owned(),
            epoch: epoch + self.epoch_up - u64::from(self.sequence_by == 1 && self.records == 3),
            sequence: (accepted as u64).saturating_add_signed(self.sequence_by),
            expected_offset: self.expected_by.map(|by| next.saturating_add_signed(by)),
        })
    }
}

fn limits(g: &mut Gen) -> StoredLimits {
    let records = pick(g, &[0, 0, 3]);
    StoredLimits { records, ..StoredLimits::default() }
}

impl Act {
    fn any(g: &mut Gen) -> Act {
        let stream = pick(g, &STREAMS);
        match u8::arbitrary(g) % 32 {
            0..=15 => Act::Append(Draw::any(g)),
            16 => Act::Burst(Draw::any(g), pick(g, &[10, 20, 70])),
            17..=19 => Act::Create(stream, limits(g)),
            20 | 21 => Act::Delete(stream),
            22 => Act::SetLimits(stream, limits(g)),
            23..=25 => Act::Trim(stream, u8::arbitrary(g)),
            26 | 27 => Act::Commit(stream, pick(g, &CURSORS), u8::arbitrary(g)),
            28 | 29 => Act::Purge(pick(g, &[0, 1, 2, 100, 1_000, 1_023, 1_024, 1_025, 2_000])),
            30 => Act::Purge(u16::arbitrary(g)),
            _ => Act::Unknown,
        }
    }

    /// The actions that this stands for, given the model's state after all actions before it.
    fn resolve(&self, now: &Model, raft_index: u64, number: &mut u64) -> Vec<Option<Action>> {
        let next = |stream: &str| now.streams.get(stream).map_or(0, |stream| stream.next());
        // A part of the end, one more, or far more.
        let at = |stream: &str, part: u8| match part {
            250.. => u64::MAX,
            241.. => next(stream) + 1,
            _ => next(stream) * u64::from(part) / 240,
        };
        let one = match self {
            Act::Append(draw) => Some(draw.append(now, number)),
            Act::Burst(draw, times) => {
                let mut model = now.clone();
                let appends = (0..*times).map(|_| {
                    let append = Some(draw.append(&model, number));
                    model.apply(raft_index, &append);
                    append
                });
                return appends.collect();
            }
            Act::Create(stream, limits) => Some(create(stream, *limits)),
            Act::Delete(stream) => Some(delete(stream)),
            Act::SetLimits(stream, limits) => Some(set_limits(stream, *limits)),
            Act::Trim(stream, part) => Some(trim(stream, at(stream, *part))),
            Act::Commit(stream, cursor, part) => Some(commit(stream, cursor, at(stream, *part))),
            Act::Purge(back) => {
                // Below zero: all, and what is to come.
                Some(purge(raft_index.checked_sub(u64::from(*back)).unwrap_or(u64::MAX)))
            }
            Act::Unknown => None,
        };
        vec![one]
    }
}

impl Arbitrary for Entry {
    fn arbitrary(g: &mut Gen) -> Entry {
        let gap = match u8::arbitrary(g) % 16 {
            0..=8 => Gap::Next,
            9..=11 => Gap::By(1 + u64::from(u8::arbitrary(g) % 80)),
            12 => Gap::By(1 + u64::from(u16::arbitrary(g) % 1_500)),
            13 | 14 => Gap::Boundary(pick(g, &[0, 1, 2, 1_023])),
            _ => Gap::Far,
        };
        let acts = (0..u8::arbitrary(g) % 5).map(|_| Act::any(g)).collect();
        Entry { gap, acts: (u8::arbitrary(g) % 16 > 0).then_some(acts) }
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = Entry>> {
        let Some(acts) = self.acts.clone() else { return quickcheck::empty_shrinker() };
        let entry = self.clone();
        let shorter = (0..acts.len()).map(move |at| {
            let mut acts = acts.clone();
            acts.remove(at);
            Entry { acts: Some(acts), ..entry.clone() }
        });
        Box::new(shorter)
    }
}

impl Arbitrary for History {
    fn arbitrary(g: &mut Gen) -> History {
        History { entries: Vec::arbitrary(g) }
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = History>> {
        Box::new(self.entries.shrink().map(|entries| History { entries }))
    }
}

/// A log, and the model of what it gives.
pub(super) struct World {
    pub(super) model: Model,
    pub(super) log: BTreeMap<u64, Command>,
    number: u64,
    last: Option<u64>,
}

impl World {
    pub(super) fn new(limits: IndexLimits) -> World {
        World { model: Model::new(limits), log: BTreeMap::new(), number: 0, last: None }
    }

    /// Adds an entry to the log. Returns its index and the outcomes that the model expects; none
    /// if it has no command.
    pub(super) fn add(&mut self, entry: &Entry) -> (u64, Option<Vec<Outcome>>) {
        let next = self.last.map_or(0, |last| last + 1);
        let raft_index = match entry.gap {
            Gap::Next => next,
            Gap::By(by) => next + by - 1,
            Gap::Boundary(below) => next.max((next + 1).next_multiple_of(1_024) - below),
            Gap::Far => next + (1 << 33),
        };
        self.last = Some(raft_index);
        let Some(acts) = &entry.acts else { return (raft_index, None) };
        let mut actions = Vec::new();
        let mut outcomes = Vec::new();
        for act in acts {
            for action in act.resolve(&self.model, raft_index, &mut self.number) {
                outcomes.push(self.model.apply(raft_index, &action));
                actions.push(action);
            }
        }
        let operations = actions.into_iter().map(|action| Operation { action });
        self.log.insert(raft_index, Command { operations: operations.collect() });
        (raft_index, Some(outcomes))
    }
}
