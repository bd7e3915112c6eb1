//! Planted histories: each differs from a good one in one thing, which must be caught.

use seawall_testkit::Dice;

use super::*;
use crate::history::{CommitOutcome, CursorCommit, CursorRead, Epoch, OutOfRange};

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
        call: Call::Unary,
        epoch: None,
        attempts: 1,
        start: start * MS,
        sent: start * MS,
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
fn requests_of_one_call_that_change_places_are_caught() {
    // Method: a batch and a record of one writer are under way together.
    let kinds = |call, swaps: Swaps| {
        story(|story| {
            story.produced[4].start = 20 * MS;
            for own in [2, 4] {
                story.produced[own].call = call;
                story.produced[own].sending = Sending::Once;
            }
            if swaps == Swaps::Yes {
                story.produced[2].outcome = Outcome::Acknowledged { offset: 4, repeated: false };
                story.produced[4].outcome = Outcome::Acknowledged { offset: 2, repeated: false };
                story.produced[3].outcome = Outcome::Acknowledged { offset: 3, repeated: false };
                story.reads.clear();
                let values = [(0, 0), (0, 1), (1, 2), (0, 2), (1, 0), (1, 1)];
                story.ends_with(&values.map(|(writer, number)| value(writer, number)));
                story.produced[3].start = 20 * MS;
            }
        })
    };
    assert_eq!(kinds(Call::Stream, Swaps::No), BTreeSet::new());
    assert_eq!(kinds(Call::Unary, Swaps::Yes), BTreeSet::new(), "no order is promised");
    assert_eq!(kinds(Call::Stream, Swaps::Yes), BTreeSet::from([Kind::Sequence]));
}

#[derive(PartialEq, Eq)]
enum Swaps {
    Yes,
    No,
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

fn commit(offset: u64, start: u64, outcome: CommitOutcome) -> Event {
    let end = (start + 5) * MS;
    Event::CursorCommit(CursorCommit {
        stream: 0,
        cursor: 0,
        offset,
        start: start * MS,
        end,
        outcome,
    })
}

fn cursor(offset: Option<u64>, start: u64) -> Event {
    let end = (start + 5) * MS;
    let read = CursorRead { session: 1, node: 2, stream: 0, cursor: 0, start: 0, end, offset };
    Event::CursorRead(CursorRead { start: start * MS, ..read })
}

/// What is broken by commits of 1, 2 and 3, without an outcome for 2, and by these answers.
fn cursors(answers: &[(Option<u64>, u64)]) -> BTreeSet<Kind> {
    let mut events = vec![
        commit(1, 10, CommitOutcome::Acknowledged),
        commit(2, 20, CommitOutcome::Unknown),
        commit(3, 30, CommitOutcome::Acknowledged),
        commit(4, 40, CommitOutcome::Refused),
    ];
    events.extend(answers.iter().map(|(offset, start)| cursor(*offset, *start)));
    check(&events, Kept::All).into_iter().map(|violation| violation.kind).collect()
}

#[test]
fn a_good_cursor_breaks_nothing() {
    let good: [&[(Option<u64>, u64)]; 10] = [
        &[],
        &[(None, 0), (Some(1), 16), (Some(3), 36)],
        // While a commit is under way, both are right.
        &[(None, 12), (Some(1), 12), (Some(3), 32), (Some(1), 32)],
        // The commit without an outcome takes effect, or not.
        &[(Some(2), 26), (Some(3), 36)],
        &[(Some(1), 26), (Some(3), 36)],
        // It does so late.
        &[(Some(3), 36), (Some(2), 50), (Some(2), 60)],
        &[(Some(1), 26), (Some(2), 36)],
        &[(Some(1), 26), (Some(3), 36), (Some(2), 50)],
        // Answers that are under way at the same time have any order.
        &[(Some(3), 36), (Some(2), 50), (Some(3), 52)],
        &[(Some(1), 26), (Some(2), 32), (Some(1), 30), (Some(3), 36)],
    ];
    for answers in good {
        assert_eq!(cursors(answers), BTreeSet::new(), "{answers:?}");
    }
}

#[test]
fn a_lost_cursor_is_caught() {
    let broken = BTreeSet::from([Kind::Cursor]);
    assert_eq!(cursors(&[(None, 16)]), broken);
    assert_eq!(cursors(&[(Some(3), 36), (None, 50)]), broken);
    // A commit without an outcome was seen: it is there, and stays.
    let seen = [commit(2, 20, CommitOutcome::Unknown), cursor(Some(2), 30), cursor(None, 40)];
    let kinds = check(&seen, Kept::All).into_iter().map(|violation| violation.kind).collect();
    assert_eq!(broken, kinds);
}

#[test]
fn a_cursor_that_goes_back_is_caught() {
    let broken = BTreeSet::from([Kind::Cursor]);
    assert_eq!(cursors(&[(Some(1), 36)]), broken);
    // The commit without an outcome took effect before, and takes effect once.
    assert_eq!(cursors(&[(Some(2), 22), (Some(2), 36)]), broken);
    assert_eq!(cursors(&[(Some(2), 23), (Some(1), 29)]), broken);
    // It takes effect late, and once; what was there before does not come back.
    assert_eq!(cursors(&[(Some(3), 36), (Some(2), 50), (Some(3), 60)]), broken);
    assert_eq!(cursors(&[(Some(2), 36), (Some(3), 50), (Some(2), 60)]), broken);
    assert_eq!(cursors(&[(Some(1), 22), (Some(2), 28), (Some(1), 34)]), broken);
}

#[test]
fn the_judge_of_cursors_agrees_with_the_search_for_an_order() {
    // Method: small histories by dice. The search tries each order of commits and answers.
    let mut found = [0; 2];
    for seed in 0..5_000 {
        let mut dice = Dice::part(seed, 1);
        let mut events = Vec::new();
        for offset in 1..=1 + dice.below(3) {
            let outcome = *dice.pick(&[CommitOutcome::Acknowledged, CommitOutcome::Unknown]);
            events.push(commit(offset, 1 + dice.below(30), outcome));
        }
        let commits = events.len() as u64;
        for _ in 0..1 + dice.below(4) {
            let offset = dice.below(commits + 1);
            events.push(cursor((offset > 0).then_some(offset), 1 + dice.below(40)));
        }
        let has_order = has_order(None, &events.iter().collect::<Vec<_>>());
        let told = check(&events, Kept::All);
        assert_eq!(told.is_empty(), has_order, "seed {seed}: {events:#?} {told:?}");
        found[usize::from(has_order)] += 1;
    }
    assert!(found[0] > 500 && found[1] > 500, "{found:?}");
}

/// Whether commits and answers have an order that explains them, with the cursor at that place.
fn has_order(place: Option<u64>, left: &[&Event]) -> bool {
    let time = |event: &Event| match event {
        Event::CursorCommit(own) if own.outcome == CommitOutcome::Unknown => (own.start, u64::MAX),
        Event::CursorCommit(own) => (own.start, own.end),
        Event::CursorRead(own) => (own.start, own.end),
        _ => unreachable!("there is nothing else"),
    };
    if left.iter().all(|event| time(event).1 == u64::MAX) {
        return true;
    }
    let first_end = left.iter().map(|event| time(event).1).min().unwrap_or(0);
    (0..left.len()).filter(|index| time(left[*index]).0 <= first_end).any(|index| {
        let mut rest = left.to_vec();
        match rest.remove(index) {
            Event::CursorRead(own) => own.offset == place && has_order(place, &rest),
            Event::CursorCommit(own) => has_order(Some(own.offset), &rest),
            _ => false,
        }
    })
}

#[test]
fn an_invented_cursor_is_caught() {
    let broken = BTreeSet::from([Kind::Cursor]);
    assert_eq!(cursors(&[(Some(7), 50)]), broken, "it was never committed");
    assert_eq!(cursors(&[(Some(4), 50)]), broken, "it was refused");
    assert_eq!(cursors(&[(Some(3), 16)]), broken, "it was committed later");
}

/// Records of epochs 1 and 2 of one producer, whose writers are 0 and 1. A third request of the
/// first epoch, sent twice, is fenced.
fn takeover(change: impl FnOnce(&mut Story)) -> BTreeSet<Kind> {
    story(|story| {
        for own in &mut story.produced {
            let number = u64::from(own.first.writer) + 1;
            own.epoch = (number < 3).then_some(Epoch { producer: 7, number });
        }
        let outcome = Outcome::Fenced { epoch: 2 };
        let start = 22 * MS;
        story.produced[3] = Produce { attempts: 2, outcome, start, ..story.produced[3].clone() };
        story.produced[4].outcome = Outcome::Acknowledged { offset: 4, repeated: false };
        story.reads.truncate(2);
        let values = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)];
        story.ends_with(&values.map(|(writer, number)| value(writer, number)));
        change(story);
    })
}

#[test]
fn a_good_takeover_breaks_nothing() {
    assert_eq!(takeover(|_| {}), BTreeSet::new());
    // An earlier attempt of the fenced request came before the higher epoch.
    let kinds = takeover(|story| {
        story.produced[3].start = 12 * MS;
        story.produced[2].outcome = Outcome::Acknowledged { offset: 3, repeated: false };
        story.produced[4].outcome = Outcome::Acknowledged { offset: 5, repeated: false };
        story.reads.truncate(1);
        let values = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)];
        story.ends_with(&values.map(|(writer, number)| value(writer, number)));
    });
    assert_eq!(kinds, BTreeSet::new());
    // The answer to the older epoch is on its way for long.
    assert_eq!(takeover(|story| story.produced[1].end = 100 * MS), BTreeSet::new());
}

#[test]
fn a_fenced_epoch_that_appends_is_caught() {
    let kinds = takeover(|story| {
        let outcome = Outcome::Acknowledged { offset: 5, repeated: false };
        story.produced[3] = Produce { outcome, ..produce(0, 2, 1, 50, 5) };
        story.produced[3].epoch = Some(Epoch { producer: 7, number: 1 });
        let values = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (0, 2)];
        story.ends_with(&values.map(|(writer, number)| value(writer, number)));
    });
    assert_eq!(kinds, BTreeSet::from([Kind::Epoch]));
    // It was told that it is fenced, and its only attempt is there.
    let kinds = takeover(|story| {
        story.produced[3].attempts = 1;
        let values = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (0, 2)];
        story.ends_with(&values.map(|(writer, number)| value(writer, number)));
    });
    assert_eq!(kinds, BTreeSet::from([Kind::Epoch, Kind::Invented]));
}

#[test]
fn a_fenced_epoch_that_is_answered_is_caught() {
    // The record is older than the higher epoch. A repetition of its request must be refused.
    let kinds = |sent| {
        takeover(|story| {
            story.produced[1].outcome = Outcome::Acknowledged { offset: 1, repeated: true };
            story.produced[1].attempts = 2;
            story.produced[1].sent = sent * MS;
            story.produced[1].end = 60 * MS;
        })
    };
    assert_eq!(kinds(24), BTreeSet::new());
    assert_eq!(kinds(26), BTreeSet::from([Kind::Epoch]));
}

#[test]
fn a_false_fence_is_caught() {
    let kinds = |epoch, end| {
        takeover(|story| {
            story.produced[3].outcome = Outcome::Fenced { epoch };
            story.produced[3].start = 12 * MS;
            story.produced[3].end = end * MS;
        })
    };
    assert_eq!(kinds(2, 30), BTreeSet::new());
    assert_eq!(kinds(2, 19), BTreeSet::from([Kind::Epoch]), "the higher one is sent later");
    assert_eq!(kinds(3, 30), BTreeSet::from([Kind::Epoch]), "there is no such epoch");
    assert_eq!(kinds(1, 30), BTreeSet::from([Kind::Epoch]), "it is not higher");
}
