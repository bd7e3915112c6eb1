//! Cursors: what was committed is not lost, and no cursor goes back.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, Kind};
use crate::history::{CommitOutcome, CursorCommit, CursorRead, Event, Nanos};

impl Check<'_> {
    /// The commits and answers of a cursor have an order in which each answer is the commit before
    /// it, and in which what ended before another thing began comes before that. A commit without
    /// an answer takes effect at any later time, once, or not at all.
    pub(super) fn cursors_hold(&mut self) {
        let mut commits: BTreeMap<u32, Vec<&CursorCommit>> = BTreeMap::new();
        let mut reads: BTreeMap<u32, Vec<&CursorRead>> = BTreeMap::new();
        for event in &self.events {
            match event {
                Event::CursorCommit(own) => commits.entry(own.cursor).or_default().push(own),
                Event::CursorRead(own) => reads.entry(own.cursor).or_default().push(own),
                _ => {}
            }
        }
        let cursors: BTreeSet<u32> = commits.keys().chain(reads.keys()).copied().collect();
        for cursor in cursors {
            let commits = commits.remove(&cursor).unwrap_or_default();
            let reads = reads.remove(&cursor).unwrap_or_default();
            for (offset, text) in judge(&commits, &reads) {
                self.tell(Kind::Cursor, offset, format!("cursor {cursor}: {text}"));
            }
        }
    }
}

/// A place of a cursor: an offset, or that there is none yet.
type Place = Option<u64>;

/// Returns what is wrong with a cursor, and where that shows.
fn judge(commits: &[&CursorCommit], reads: &[&CursorRead]) -> Vec<(Place, String)> {
    let mut wrong = Vec::new();
    let by_offset: BTreeMap<u64, &CursorCommit> =
        commits.iter().map(|own| (own.offset, *own)).collect();
    let seen: BTreeSet<u64> = reads.iter().filter_map(|read| read.offset).collect();
    let mut stays = BTreeMap::from([(None, Stay::begin())]);
    for (offset, own) in &by_offset {
        match own.outcome {
            CommitOutcome::Acknowledged => {
                stays.insert(Some(*offset), Stay::new(own.start, own.end));
            }
            // No time is known before which it took effect. If it was read, it did.
            CommitOutcome::Unknown if seen.contains(offset) => {
                stays.insert(Some(*offset), Stay::new(own.start, Nanos::MAX));
            }
            CommitOutcome::Unknown | CommitOutcome::Refused => {}
        }
    }
    for read in reads {
        let why = match read.offset.map(|offset| by_offset.get(&offset)) {
            Some(None) => "which was never committed",
            Some(Some(own)) if own.outcome == CommitOutcome::Refused => "which was refused",
            Some(Some(own)) if own.start > read.end => "before it was committed",
            _ => {
                if let Some(stay) = stays.get_mut(&read.offset) {
                    stay.add(read.start, read.end);
                }
                continue;
            }
        };
        let CursorRead { session, node, .. } = read;
        let at = named(read.offset);
        wrong.push((read.offset, format!("reader {session} at node {node} sees {at}, {why}")));
    }
    let stays: Vec<Placed> = stays.into_iter().collect();
    wrong.extend(conflicts(&stays).into_iter().map(|(one, other)| {
        let text = format!(
            "it is at {} from {} to {} ms, and at {} in that time",
            named(one.0),
            one.1.sure / 1_000_000,
            one.1.last / 1_000_000,
            named(other.0)
        );
        (other.0.or(one.0), text)
    }));
    wrong
}

fn named(place: Place) -> String {
    place.map_or("no offset".to_owned(), |offset| offset.to_string())
}

/// When a cursor was at a place. It came there once, and has left it once.
#[derive(Debug, Clone, Copy)]
struct Stay {
    /// The first end of a commit or an answer: the cursor had come by then.
    sure: Nanos,
    /// The last beginning of a commit or an answer: the cursor left later.
    last: Nanos,
}

impl Stay {
    /// Before the first commit.
    fn begin() -> Stay {
        Stay::new(0, 0)
    }

    fn new(start: Nanos, end: Nanos) -> Stay {
        Stay { sure: end, last: start }
    }

    fn add(&mut self, start: Nanos, end: Nanos) {
        self.sure = self.sure.min(end);
        self.last = self.last.max(start);
    }

    /// Whether the cursor was there for a time, and not only at an unknown moment.
    fn lasts(&self) -> bool {
        self.sure < self.last
    }
}

/// A place, and when the cursor was there.
type Placed = (Place, Stay);

/// Returns the places that a cursor cannot have been at one after the other: each one must come
/// before the other, because a part of it ended before a part of the other began. No more than that
/// is needed: if each two places have an order, all of them have one.
///
/// # Source
/// P. B. Gibbons and E. Korach, "Testing Shared Memories", SIAM Journal on Computing 26, 1997: the
/// test of one register whose values are unique.
fn conflicts(stays: &[Placed]) -> Vec<(&Placed, &Placed)> {
    let mut found = Vec::new();
    let mut lasting: Vec<&Placed> = stays.iter().filter(|own| own.1.lasts()).collect();
    lasting.sort_by_key(|own| own.1.sure);
    // For each of them, the one that lasts longest of those that came no later.
    let mut longest: Vec<&Placed> = Vec::new();
    for own in lasting.iter().copied() {
        let before = longest.last().copied();
        if let Some(before) = before.filter(|before| own.1.sure < before.1.last) {
            found.push((before, own));
        }
        longest.push(before.filter(|before| before.1.last > own.1.last).unwrap_or(own));
    }
    for own in stays.iter().filter(|own| !own.1.lasts()) {
        let count = lasting.partition_point(|other| other.1.sure < own.1.last);
        let around = count.checked_sub(1).map(|index| longest[index]);
        if let Some(around) = around.filter(|around| own.1.sure < around.1.last) {
            found.push((around, own));
        }
    }
    found
}
