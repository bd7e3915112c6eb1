//! Planted histories: each differs from a good one in one thing, which must be caught.

use super::*;
use crate::history::OutOfRange;

const MS: u64 = 1_000_000;

fn value(writer: u32, number: u32) -> Value {
    Value { writer, number }
}

fn produce(writer: u32, number: u32, count: u32, start: u64, offset: u64) -> Produce {
    Produce {
        stream: 0,
        first: value(writer, number),
        count,
        sending: Sending::Idempotent,
        attempts: 1,
        start: start * MS,
        end: (start + 5) * MS,
        outcome: Outcome::Acknowledged { offset, repeated: false },
    }
}

fn read(level: Level, from: u64, start: u64, records: &[(u64, Value)], end_offset: u64) -> Read {
    Read {
        session: 1,
        node: 2,
        stream: 0,
        level,
        from: Some(from),
        start: start * MS,
        end: (start + 5) * MS,
        records: records.to_vec(),
        end_offset,
    }
}

fn last(node: u64, records: &[(u64, Value)]) -> Final {
    let first = records.first().map_or(0, |(offset, _)| *offset);
    Final { node, stream: 0, first, records: records.to_vec(), start: 1000 * MS }
}

/// Six records: three of writer 0, a batch of two and one more of writer 1.
fn content() -> Vec<(u64, Value)> {
    let values = [value(0, 0), value(0, 1), value(1, 0), value(1, 1), value(0, 2), value(1, 2)];
    (0..).zip(values).collect()
}

/// What a good run looks like. Tests change it.
struct Story {
    produced: Vec<Produce>,
    reads: Vec<Read>,
    out_of_range: Vec<OutOfRange>,
    finals: Vec<Final>,
    kept: Kept,
}

impl Story {
    fn good() -> Story {
        let content = content();
        let unknown = Produce {
            sending: Sending::Once,
            outcome: Outcome::Unknown,
            ..produce(2, 0, 1, 30, 0)
        };
        let refused = Produce { outcome: Outcome::Refused, ..produce(3, 0, 1, 30, 0) };
        Story {
            produced: vec![
                produce(0, 0, 1, 0, 0),
                produce(0, 1, 1, 10, 1),
                produce(1, 0, 2, 20, 2),
                produce(0, 2, 1, 30, 4),
                produce(1, 2, 1, 30, 5),
                unknown,
                refused,
            ],
            reads: vec![
                read(Level::Local, 0, 12, &content[..1], 1),
                read(Level::Linearizable, 0, 26, &content[..4], 4),
                read(Level::AtLeast(4), 4, 40, &content[4..], 6),
                Read { from: None, ..read(Level::Linearizable, 0, 50, &[], 6) },
            ],
            out_of_range: Vec::new(),
            finals: vec![last(1, &content), last(2, &content), last(3, &content)],
            kept: Kept::All,
        }
    }

    fn kinds(&self) -> BTreeSet<Kind> {
        let events: Vec<Event> = self
            .produced
            .iter()
            .cloned()
            .map(Event::Produce)
            .chain(self.reads.iter().cloned().map(Event::Read))
            .chain(self.out_of_range.iter().cloned().map(Event::OutOfRange))
            .chain(self.finals.iter().cloned().map(Event::Final))
            .collect();
        check(&events, self.kept).into_iter().map(|violation| violation.kind).collect()
    }

    /// Puts other records into the finals of all nodes.
    fn ends_with(&mut self, values: &[Value]) {
        let records: Vec<(u64, Value)> = (0..).zip(values.iter().copied()).collect();
        for own in &mut self.finals {
            *own = last(own.node, &records);
        }
    }

    fn out_of_range(&mut self, from: u64, first: u64) {
        let end = 60 * MS;
        self.out_of_range.push(OutOfRange { session: 1, node: 2, stream: 0, from, first, end });
    }
}

fn story(change: impl FnOnce(&mut Story)) -> BTreeSet<Kind> {
    let mut story = Story::good();
    change(&mut story);
    story.kinds()
}

#[test]
fn a_good_history_breaks_nothing() {
    assert_eq!(story(|_| {}), BTreeSet::new());
    // The unknown record may be there, once.
    let mut values: Vec<Value> = content().iter().map(|(_, value)| *value).collect();
    values.push(value(2, 0));
    assert_eq!(story(|story| story.ends_with(&values)), BTreeSet::new());
    // Old records may go, where they may.
    let cut = story(|story| {
        story.kept = Kept::AtLeast(100 * MS);
        story.finals.iter_mut().for_each(|own| *own = last(own.node, &content()[3..]));
        story.out_of_range(1, 3);
    });
    assert_eq!(cut, BTreeSet::new());
    // A stream without records.
    assert_eq!(check(&[Event::Final(last(1, &[]))], Kept::All).len(), 0);
}

#[test]
fn a_lost_record_is_caught() {
    let values: Vec<Value> = content().iter().map(|(_, value)| *value).collect();
    assert!(story(|story| story.ends_with(&values[..5])).contains(&Kind::Lost));
    let other = [&values[..5], &[value(2, 0)]].concat();
    assert!(story(|story| story.ends_with(&other)).contains(&Kind::Lost));
    // A record that was read only, and had an unknown outcome.
    let read_only = story(|story| {
        story.reads.push(read(Level::Local, 6, 60, &[(6, value(2, 0))], 7));
    });
    assert!(read_only.contains(&Kind::Lost));
    // The stream begins later, and all records are kept; or they are kept for longer.
    let cut = |kept| {
        story(|story| {
            story.kept = kept;
            story.finals.iter_mut().for_each(|own| *own = last(own.node, &content()[4..]));
        })
    };
    assert!(cut(Kept::All).contains(&Kind::Lost));
    assert!(cut(Kept::AtLeast(990 * MS)).contains(&Kind::Lost));
    assert!(!cut(Kept::AtLeast(900 * MS)).contains(&Kind::Lost));
    assert!(story(|story| story.out_of_range(1, 3)).contains(&Kind::Lost));
}

#[test]
fn a_duplicated_record_is_caught() {
    let mut values: Vec<Value> = content().iter().map(|(_, value)| *value).collect();
    for own in [value(1, 2), value(2, 0)] {
        values.push(own);
        values.push(own);
        let kinds = story(|story| story.ends_with(&values));
        assert!(kinds.contains(&Kind::Duplicated), "{own}: {kinds:?}");
        values.truncate(6);
    }
}

#[test]
fn an_invented_record_is_caught() {
    let mut values: Vec<Value> = content().iter().map(|(_, value)| *value).collect();
    for own in [value(9, 9), value(3, 0)] {
        values.push(own);
        let kinds = story(|story| story.ends_with(&values));
        assert_eq!(kinds, BTreeSet::from([Kind::Invented]), "{own}");
        values.pop();
    }
}

#[test]
fn a_reordered_append_is_caught() {
    // The second record is sent after the third was acknowledged.
    let kinds = story(|story| story.produced[1].start = 100 * MS);
    assert_eq!(kinds, BTreeSet::from([Kind::Reordered]));
}

#[test]
fn a_gap_is_caught() {
    let kinds = story(|story| {
        story.reads[1].records.remove(0);
    });
    assert_eq!(kinds, BTreeSet::from([Kind::Gap]));
    // An answer need not have all that there is.
    assert_eq!(story(|story| story.reads[1].records.truncate(1)), BTreeSet::new());
    // An answer without records that says that there are some, and one with more than there are.
    assert!(story(|story| story.reads[0].records.clear()).contains(&Kind::Gap));
    assert!(story(|story| story.reads[0].end_offset = 0).contains(&Kind::Gap));
    let kinds = story(|story| {
        for own in &mut story.finals {
            own.records.remove(2);
        }
    });
    assert!(kinds.contains(&Kind::Gap));
    // Half of a batch whose outcome is unknown.
    let values: Vec<Value> = content().iter().map(|(_, value)| *value).collect();
    let kinds = story(|story| {
        story.produced[5].count = 2;
        story.ends_with(&[&values[..], &[value(2, 0)]].concat());
    });
    assert_eq!(kinds, BTreeSet::from([Kind::Gap]));
}

#[test]
fn a_stale_linearizable_read_is_caught() {
    let kinds = story(|story| story.reads[3].end_offset = 5);
    assert_eq!(kinds, BTreeSet::from([Kind::Stale]));
    let kinds = story(|story| {
        story.reads[1].records.pop();
        story.reads[1].end_offset = 3;
    });
    assert_eq!(kinds, BTreeSet::from([Kind::Stale]));
    // A local read may lag. What another reader saw before may not be missing.
    let local = |level| {
        story(|story| {
            story.reads.push(Read { from: None, ..read(level, 0, 46, &[], 4) });
        })
    };
    assert_eq!(local(Level::Local), BTreeSet::new());
    assert_eq!(local(Level::Linearizable), BTreeSet::from([Kind::Stale]));
}

#[test]
fn a_session_that_goes_backwards_is_caught() {
    assert_eq!(story(|story| story.out_of_range(7, 0)), BTreeSet::from([Kind::Backwards]));
    let kinds = story(|story| story.reads[2].level = Level::AtLeast(7));
    assert_eq!(kinds, BTreeSet::from([Kind::Backwards]));
}

#[test]
fn a_broken_sequence_is_caught() {
    // Sequence 1 is acknowledged with an unknown outcome, and is not there, but 2 is.
    let kinds = story(|story| {
        story.produced[1].outcome = Outcome::Unknown;
        story.produced.remove(0);
        story.reads.clear();
        let values = [value(0, 2), value(1, 0), value(1, 1), value(1, 2)];
        story.produced = vec![
            Produce { outcome: Outcome::Unknown, ..produce(0, 1, 1, 0, 0) },
            produce(0, 2, 1, 10, 0),
            produce(1, 0, 2, 20, 1),
            produce(1, 2, 1, 30, 3),
        ];
        story.ends_with(&values);
    });
    assert_eq!(kinds, BTreeSet::from([Kind::Sequence]));
    let repeated = Outcome::Acknowledged { offset: 0, repeated: true };
    let kinds = story(|story| story.produced[0].outcome = repeated);
    assert_eq!(kinds, BTreeSet::from([Kind::Sequence]));
    let kinds = story(|story| {
        story.produced[0].outcome = repeated;
        story.produced[0].attempts = 2;
    });
    assert_eq!(kinds, BTreeSet::new());
}

#[test]
fn unequal_logs_are_caught() {
    let kinds = story(|story| {
        let mut records = content();
        records.push((6, value(2, 0)));
        story.finals[2] = last(3, &records);
    });
    assert!(kinds.contains(&Kind::Unequal), "{kinds:?}");
    let kinds = story(|story| {
        story.kept = Kept::Unknown;
        story.finals[2] = last(3, &content()[2..]);
    });
    assert_eq!(kinds, BTreeSet::new(), "one node has removed what is old");
}
