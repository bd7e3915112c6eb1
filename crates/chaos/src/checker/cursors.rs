//! Cursors: what was committed is not lost, and no cursor goes back.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, Kind};
use crate::history::{CommitOutcome, CursorCommit, CursorRead, Event, Nanos};

/// A commit, and since when a client knows that it took effect. It was sent once: it takes effect
/// once, and not after that time.
struct Commit<'a> {
    own: &'a CursorCommit,
    known: Option<Nanos>,
}

impl Check<'_> {
    /// A reader sees the newest commit that was known before it asked, or a newer one. A commit
    /// without an answer may take effect at any later time, but only once.
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
        let mut wrong = Vec::new();
        for cursor in cursors {
            let commits = commits.remove(&cursor).unwrap_or_default();
            let reads = reads.remove(&cursor).unwrap_or_default();
            let register = Register::new(commits, &reads);
            let told = reads.iter().filter_map(|own| Some((*own, register.judge(own)?)));
            wrong.extend(told.map(|(own, why)| {
                let text = format!(
                    "cursor {cursor}: reader {} at node {} sees {:?}, {why}",
                    own.session, own.node, own.offset
                );
                (own.offset, text)
            }));
        }
        for (offset, text) in wrong {
            self.tell(Kind::Cursor, offset, text);
        }
    }
}

/// The commits of one cursor, by their offsets: each has its own.
struct Register<'a> {
    by_offset: BTreeMap<u64, Commit<'a>>,
    /// By the time since when they are known: the newest start of them and of all before, and the
    /// offset of that commit.
    newest: Vec<(Nanos, (Nanos, u64))>,
}

impl<'a> Register<'a> {
    fn new(commits: Vec<&'a CursorCommit>, reads: &[&CursorRead]) -> Register<'a> {
        let mut by_offset: BTreeMap<u64, Commit<'_>> = BTreeMap::new();
        for own in commits {
            let known = (own.outcome == CommitOutcome::Acknowledged).then_some(own.end);
            by_offset.insert(own.offset, Commit { own, known });
        }
        for read in reads {
            let seen = read.offset.and_then(|offset| by_offset.get_mut(&offset));
            if let Some(commit) = seen {
                commit.known = Some(commit.known.map_or(read.end, |known| known.min(read.end)));
            }
        }
        let known = by_offset
            .iter()
            .filter_map(|(offset, commit)| Some((commit.known?, (commit.own.start, *offset))));
        let mut newest: Vec<(Nanos, (Nanos, u64))> = known.collect();
        newest.sort_unstable();
        let mut last = (0, 0);
        for (_, start) in &mut newest {
            last = last.max(*start);
            *start = last;
        }
        Register { by_offset, newest }
    }

    /// The commit that began last, of those that are known before a time: when, and its offset.
    fn newest_before(&self, time: Nanos) -> Option<(Nanos, u64)> {
        let count = self.newest.partition_point(|(known, _)| *known < time);
        Some(self.newest[count.checked_sub(1)?].1)
    }

    /// Returns what is wrong with an answer.
    fn judge(&self, read: &CursorRead) -> Option<String> {
        let newest = self.newest_before(read.start);
        let Some(offset) = read.offset else {
            return newest.map(|(_, newest)| format!("and {newest} was committed before"));
        };
        let Some(commit) = self.by_offset.get(&offset) else {
            return Some("which was never committed".to_owned());
        };
        if commit.own.outcome == CommitOutcome::Refused {
            return Some("which was refused".to_owned());
        }
        if commit.own.start > read.end {
            return Some("before it was committed".to_owned());
        }
        let (start, newest) = newest?;
        let is_older = commit.known.is_some_and(|known| known < start);
        is_older.then(|| format!("and {newest} was committed after that, and before the question"))
    }
}
