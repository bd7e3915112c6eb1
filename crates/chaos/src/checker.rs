//! The judge of a history. It knows nothing of servers: it compares what clients were told.

mod cursors;
mod epochs;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::history::{Call, Event, Final, Level, Nanos, Outcome, Produce, Read, Sending, Value};

/// What a violation breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An acknowledged record, or one that was read, is gone or is another one.
    Lost,
    /// A record is there twice.
    Duplicated,
    /// A record is there that was never sent, or that was refused.
    Invented,
    /// A record stands before one that was acknowledged before it was sent.
    Reordered,
    /// Records are missing between others, or a batch is there in part.
    Gap,
    /// A read knows less than it must.
    Stale,
    /// A reader's place is no longer in the stream.
    Backwards,
    /// A producer's sequences are not all there, or the answer to one is wrong.
    Sequence,
    /// A cursor is lost, goes back, or stands where it never was.
    Cursor,
    /// A producer that a higher epoch has shut out has appended, or one was refused without that.
    Epoch,
    /// Two nodes have different records.
    Unequal,
    /// The group gave no answer, or the nodes did not become equal, when all was repaired.
    Stuck,
    /// A process ended or panicked without a reason.
    Ended,
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{self:?}").to_lowercase();
        formatter.write_str(&name)
    }
}

/// A broken promise.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which.
    pub kind: Kind,
    /// The stream and the offset where it shows, if it has a place.
    pub place: Option<(usize, u64)>,
    /// What was seen.
    pub text: String,
}

/// How long records are kept in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// All of them.
    All,
    /// At least so long.
    AtLeast(Nanos),
    /// For an unknown time: the clocks lie.
    Unknown,
}

/// A violation that shows in thousands of records is told so often.
const TOLD_MAX: usize = 20;

/// Returns what the history breaks. An empty list is a good run.
#[must_use]
pub fn check(events: &[Event], kept: Kept) -> Vec<Violation> {
    let streams: BTreeSet<usize> = events.iter().filter_map(stream_of).collect();
    let mut found = Vec::new();
    for stream in streams {
        let mut check = Check::new(events, stream, kept);
        check.all();
        found.append(&mut check.found);
    }
    found
}

fn stream_of(event: &Event) -> Option<usize> {
    match event {
        Event::Produce(own) => Some(own.stream),
        Event::Read(own) => Some(own.stream),
        Event::OutOfRange(own) => Some(own.stream),
        Event::CursorCommit(own) => Some(own.stream),
        Event::CursorRead(own) => Some(own.stream),
        Event::Final(own) => Some(own.stream),
        Event::Fault { .. } => None,
    }
}

/// The check of one stream.
struct Check<'a> {
    events: Vec<&'a Event>,
    stream: usize,
    kept: Kept,
    produced: Vec<&'a Produce>,
    reads: Vec<&'a Read>,
    finals: Vec<&'a Final>,
    /// What each offset holds, by all who told.
    at: BTreeMap<u64, Value>,
    found: Vec<Violation>,
}

impl<'a> Check<'a> {
    fn new(events: &'a [Event], stream: usize, kept: Kept) -> Check<'a> {
        let events: Vec<&Event> =
            events.iter().filter(|event| stream_of(event) == Some(stream)).collect();
        let mut produced = Vec::new();
        let mut reads = Vec::new();
        let mut finals = Vec::new();
        for event in &events {
            match event {
                Event::Produce(own) => produced.push(own),
                Event::Read(own) => reads.push(own),
                Event::Final(own) => finals.push(own),
                Event::OutOfRange(_) | Event::Fault { .. } => {}
                Event::CursorCommit(_) | Event::CursorRead(_) => {}
            }
        }
        let at = BTreeMap::new();
        Check { events, stream, kept, produced, reads, finals, at, found: Vec::new() }
    }

    fn all(&mut self) {
        self.contents();
        self.finals_are_equal();
        self.nothing_is_lost();
        self.each_value_once();
        self.batches_are_whole();
        self.sequences_hold();
        self.streamed_order_holds();
        self.epochs_hold();
        self.cursors_hold();
        self.reads_have_no_gap();
        self.readers_keep_their_place();
        self.time_goes_on();
    }

    fn tell(&mut self, kind: Kind, offset: Option<u64>, text: String) {
        let told = self.found.iter().filter(|violation| violation.kind == kind).count();
        if told < TOLD_MAX {
            let place = offset.map(|offset| (self.stream, offset));
            self.found.push(Violation { kind, place, text: format!("s{}: {text}", self.stream) });
        }
    }

    /// Each offset holds one value, by all who tell of it.
    fn contents(&mut self) {
        let mut told: Vec<(u64, Value, String)> = Vec::new();
        for own in &self.produced {
            if let Outcome::Acknowledged { offset, .. } = own.outcome {
                let who = "its writer";
                told.extend(values(own).zip(offset..).map(|(value, at)| (at, value, who.into())));
            }
        }
        for own in &self.reads {
            let who = format!("reader {} at node {}", own.session, own.node);
            told.extend(own.records.iter().map(|(at, value)| (*at, *value, who.clone())));
        }
        for own in &self.finals {
            let who = format!("node {} in the end", own.node);
            told.extend(own.records.iter().map(|(at, value)| (*at, *value, who.clone())));
        }
        for (offset, value, who) in told {
            match self.at.entry(offset) {
                Entry::Vacant(entry) => drop(entry.insert(value)),
                Entry::Occupied(entry) if *entry.get() == value => {}
                Entry::Occupied(entry) => {
                    let text = format!(
                        "offset {offset} is {value} by {who}, and was {} before",
                        entry.get()
                    );
                    self.tell(Kind::Lost, Some(offset), text);
                }
            }
        }
    }

    fn finals_are_equal(&mut self) {
        let finals = std::mem::take(&mut self.finals);
        for pair in finals.windows(2) {
            let [one, other] = pair else { continue };
            let first = one.first.max(other.first);
            let young = |own: &Final| -> Vec<(u64, Value)> {
                own.records.iter().copied().filter(|(offset, _)| *offset >= first).collect()
            };
            let (ours, theirs) = (young(one), young(other));
            if ours == theirs {
                continue;
            }
            let same = ours.iter().zip(&theirs).take_while(|(own, other)| own == other).count();
            let text = format!(
                "nodes {} and {} have {} and {} records from {first} on, the first {same} equal",
                one.node,
                other.node,
                ours.len(),
                theirs.len()
            );
            self.tell(Kind::Unequal, Some(first + same as u64), text);
        }
        self.finals = finals;
    }

    /// All that was acknowledged or read is there in the end.
    fn nothing_is_lost(&mut self) {
        let Some(last) = self.finals.first().copied() else { return };
        if self.kept == Kept::All && last.first > 0 {
            let text = format!("the stream begins at {}, and all records are kept", last.first);
            self.tell(Kind::Lost, Some(last.first), text);
        }
        let there: BTreeMap<u64, Value> = last.records.iter().copied().collect();
        let gone: Vec<(u64, Value)> = self
            .at
            .range(last.first..)
            .filter(|(offset, value)| there.get(offset) != Some(value))
            .map(|(offset, value)| (*offset, *value))
            .collect();
        for (offset, value) in gone {
            let text = format!("{value} at offset {offset} was told, and is not there in the end");
            self.tell(Kind::Lost, Some(offset), text);
        }
        let Kept::AtLeast(age) = self.kept else { return };
        for own in self.produced.clone() {
            let Outcome::Acknowledged { offset, .. } = own.outcome else { continue };
            if offset < last.first && own.start.saturating_add(age) > last.start {
                let text = format!("{} at offset {offset} was removed too early", own.first);
                self.tell(Kind::Lost, Some(offset), text);
            }
        }
    }

    /// No value is there twice, and each was sent and not refused.
    fn each_value_once(&mut self) {
        let mut sent: BTreeMap<Value, &Produce> = BTreeMap::new();
        for own in &self.produced {
            sent.extend(values(own).map(|value| (value, *own)));
        }
        let mut places: BTreeMap<Value, u64> = BTreeMap::new();
        for (offset, value) in self.at.clone() {
            if let Some(other) = places.insert(value, offset) {
                let text = format!("{value} is at offsets {other} and {offset}");
                self.tell(Kind::Duplicated, Some(offset), text);
            }
            match sent.get(&value) {
                Some(own) if is_refused(own) => {
                    let text = format!("{value} was refused, and is at offset {offset}");
                    self.tell(Kind::Invented, Some(offset), text);
                }
                Some(_) => {}
                None => {
                    let text = format!("{value} was never sent, and is at offset {offset}");
                    self.tell(Kind::Invented, Some(offset), text);
                }
            }
        }
    }

    /// A batch is there without a gap, or not at all.
    fn batches_are_whole(&mut self) {
        let Some(last) = self.finals.first().copied() else { return };
        let places: BTreeMap<Value, u64> =
            last.records.iter().map(|(offset, value)| (*value, *offset)).collect();
        for own in self.produced.clone() {
            let found: Vec<Option<u64>> =
                values(own).map(|value| places.get(&value).copied()).collect();
            let Some(Some(end)) = found.iter().rev().find(|place| place.is_some()) else {
                continue;
            };
            let count = u64::from(own.count);
            // The first part may be older than what is retained.
            let wanted = (0..count).map(|index| {
                let place = (end + 1 + index).checked_sub(count)?;
                (place >= last.first).then_some(place)
            });
            if !wanted.eq(found.iter().copied()) {
                let text = format!("the batch of {} is there in part: {found:?}", own.first);
                self.tell(Kind::Gap, Some(*end), text);
            }
        }
    }

    /// The sequences of a producer are there without a gap, in order.
    fn sequences_hold(&mut self) {
        for own in self.produced.clone() {
            let Outcome::Acknowledged { offset, repeated: true } = own.outcome else { continue };
            if own.attempts == 1 {
                let text = format!("{} was sent once, and is called a repetition", own.first);
                self.tell(Kind::Sequence, Some(offset), text);
            }
        }
        let Some(last) = self.finals.first().copied() else { return };
        let idempotent: BTreeSet<u32> = self
            .produced
            .iter()
            .filter(|own| own.sending == Sending::Idempotent)
            .map(|own| own.first.writer)
            .collect();
        let mut sent: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for own in &self.produced {
            sent.entry(own.first.writer).or_default().extend(values(own).map(|own| own.number));
        }
        let mut there: BTreeMap<u32, Vec<(u64, u32)>> = BTreeMap::new();
        for (offset, value) in &last.records {
            if idempotent.contains(&value.writer) {
                there.entry(value.writer).or_default().push((*offset, value.number));
            }
        }
        for (writer, numbers) in there {
            let mut wanted = sent.remove(&writer).unwrap_or_default();
            wanted.sort_unstable();
            let begin = match (last.first, numbers.first()) {
                // What is older may have gone.
                (1.., Some((_, first))) => wanted.partition_point(|number| number < first),
                _ => 0,
            };
            let wrong = numbers.iter().zip(&wanted[begin..]).find(|((_, own), due)| own != *due);
            if let Some(((offset, own), due)) = wrong {
                let text =
                    format!("offset {offset} is w{writer}-{own}, and w{writer}-{due} is due");
                self.tell(Kind::Sequence, Some(*offset), text);
            }
        }
    }

    /// What a writer sends in one call is appended in that order.
    fn streamed_order_holds(&mut self) {
        let mut told: BTreeMap<Value, u64> = BTreeMap::new();
        for own in self.produced.iter().filter(|own| own.call == Call::Stream) {
            if let Outcome::Acknowledged { offset, .. } = own.outcome {
                told.insert(own.first, offset);
            }
        }
        let told: Vec<(Value, u64)> = told.into_iter().collect();
        for pair in told.windows(2) {
            let [(one, before), (other, after)] = pair else { continue };
            if one.writer == other.writer && before > after {
                let text = format!("{one} got offset {before}, and {other} got {after} behind it");
                self.tell(Kind::Sequence, Some(*after), text);
            }
        }
    }

    /// An answer holds records one after the other, from the place that was asked for.
    fn reads_have_no_gap(&mut self) {
        for own in self.reads.clone() {
            let Some(from) = own.from else { continue };
            let wrong = (from..).zip(&own.records).find(|(due, (offset, _))| due != offset);
            if let Some((due, (offset, _))) = wrong {
                let text = format!(
                    "reader {} at node {} got {offset}, and {due} is due",
                    own.session, own.node
                );
                self.tell(Kind::Gap, Some(due), text);
            }
            let last = own.records.last().map_or(from, |(offset, _)| offset + 1);
            let is_short = own.records.is_empty() && own.end_offset > from;
            if last > own.end_offset && !own.records.is_empty() || is_short {
                let text = format!(
                    "reader {} at node {} got {} records from {from}, and the end is {}",
                    own.session,
                    own.node,
                    own.records.len(),
                    own.end_offset
                );
                self.tell(Kind::Gap, Some(from), text);
            }
        }
        for own in self.finals.clone() {
            let wrong = (own.first..).zip(&own.records).find(|(due, (offset, _))| due != offset);
            if let Some((due, (offset, _))) = wrong {
                let text = format!("node {} has {offset}, and {due} is due", own.node);
                self.tell(Kind::Gap, Some(due), text);
            }
        }
    }

    /// A reader that has seen all below an offset is never told that there is less.
    fn readers_keep_their_place(&mut self) {
        for event in self.events.clone() {
            match event {
                Event::OutOfRange(own) if own.first <= own.from => {
                    let text = format!(
                        "reader {} is at {}, and node {} has less",
                        own.session, own.from, own.node
                    );
                    self.tell(Kind::Backwards, Some(own.from), text);
                }
                Event::OutOfRange(own) if self.kept == Kept::All => {
                    let text = format!(
                        "reader {} is at {}, node {} begins at {}, and all records are kept",
                        own.session, own.from, own.node, own.first
                    );
                    self.tell(Kind::Lost, Some(own.from), text);
                }
                Event::Read(own) => {
                    if let Level::AtLeast(offset) = own.level
                        && own.end_offset < offset
                    {
                        let text = format!(
                            "reader {} asked node {} for at least {offset}, and it has {}",
                            own.session, own.node, own.end_offset
                        );
                        self.tell(Kind::Backwards, Some(offset), text);
                    }
                }
                _ => {}
            }
        }
    }

    /// What begins after another thing has ended comes after it: appends get higher offsets, and
    /// linearizable reads know all of it.
    fn time_goes_on(&mut self) {
        // The times at which an end of the stream was known to a client.
        let mut known: Vec<(Nanos, u64)> = Vec::new();
        let mut later: Vec<Later> = Vec::new();
        for own in &self.produced {
            if let Outcome::Acknowledged { offset, .. } = own.outcome {
                known.push((own.end, offset + u64::from(own.count)));
                let what = format!("{}", own.first);
                later.push(Later {
                    start: own.start,
                    end_offset: offset,
                    what,
                    kind: Kind::Reordered,
                });
            }
        }
        for own in &self.reads {
            known.push((own.end, own.end_offset));
            if own.level == Level::Linearizable {
                let what = format!("reader {} at node {}", own.session, own.node);
                let end_offset = own.end_offset;
                later.push(Later { start: own.start, end_offset, what, kind: Kind::Stale });
            }
        }
        known.sort_unstable();
        later.sort_by_key(|later| later.start);
        let mut known = known.into_iter().peekable();
        let mut end = 0;
        for Later { start, end_offset, what, kind } in later {
            while let Some((_, offset)) = known.next_if(|(at, _)| *at < start) {
                end = end.max(offset);
            }
            if end_offset < end {
                let text = match kind {
                    Kind::Stale => {
                        format!("{what} sees the end {end_offset}, after {end} was told")
                    }
                    _ => format!("{what} got offset {end_offset}, after the end {end} was told"),
                };
                self.tell(kind, Some(end_offset), text);
            }
        }
    }
}

/// Something that must know what was told before it began.
struct Later {
    start: Nanos,
    end_offset: u64,
    what: String,
    kind: Kind,
}

/// Whether a request has appended nothing, for sure.
fn is_refused(own: &Produce) -> bool {
    match own.outcome {
        Outcome::Refused => true,
        // An earlier attempt may have come before the higher epoch.
        Outcome::Fenced { .. } => own.attempts == 1,
        Outcome::Acknowledged { .. } | Outcome::Unknown => false,
    }
}

/// The values of a request.
fn values(own: &Produce) -> impl Iterator<Item = Value> + use<> {
    let Value { writer, number } = own.first;
    (number..number + own.count).map(move |number| Value { writer, number })
}

#[cfg(test)]
mod tests;
