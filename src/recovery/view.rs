//! `View`: what a reader sees of a log that another process may be writing. It keeps no writer out
//! and writes nothing. It keeps where its scan ended, so the next look reads only what is new.

use std::sync::Arc;
use std::time::Duration;

use crate::catalog::{CatalogEntry, Cut};
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::frame::{FrameHeader, Seal};
use crate::lsn::Lsn;
use crate::options::{Options, Verify, Visibility};
use crate::report::{RecoveryNote, RecoveryReport};
use crate::segment::{IndexEntry, Segment};

use super::beside::{Names, until_sound};
use super::decide::BelowFloor;
use super::forecast::forecast;
use super::kept::{Seen, cut_between};
use super::remedy::{Plan, Remedy, remedy};
use super::scan::{Access, Found, Known, scan};
use super::tail::{PromisedPart, TailScan};
use super::verify::verify_sealed;

/// How a look differs from the look before it.
#[derive(Debug)]
pub(crate) enum Change {
    /// The segments are the same. Records, state and floor may be new.
    SameSegments,
    /// Other segments, or another tail. `cut`: the shown records that the writer has removed from
    /// the end.
    OtherSegments { cut: Option<Cut> },
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct View {
    dir: Arc<Dir>,
    verify: Verify,
    visibility: Visibility,
    patience: Duration,
    known: Known,
    /// What the last look was based on.
    names: Names,
    sealed: Vec<Sealed>,
    seen: Option<Seen>,
    /// How many entries the index of the tail has.
    indexed: usize,
}

/// A sealed segment, also one whose verification was not finished.
#[derive(Debug, Clone)]
struct Sealed {
    segment: Arc<Segment>,
    seal: Seal,
    has_verified: bool,
}

impl View {
    /// Looks for the first time. Also returns what the next open for writing would find and do.
    pub(crate) fn open(dir: Arc<Dir>, options: &Options) -> Result<(View, RecoveryReport)> {
        let start = dir.now();
        let mut view = View {
            dir: dir.clone(),
            verify: options.verify,
            visibility: options.visibility,
            patience: options.read_only_patience,
            known: Known::default(),
            names: Names::default(),
            sealed: Vec::new(),
            seen: None,
            indexed: 0,
        };
        let (_, report) = view.look()?;
        let mut report = report.expect("the first look reports");
        report.elapsed = dir.now().saturating_sub(start);
        Ok((view, report))
    }

    /// Looks again.
    pub(crate) fn refresh(&mut self) -> Result<Change> {
        self.look().map(|(change, _)| change)
    }

    pub(crate) fn seen(&self) -> &Seen {
        self.seen.as_ref().expect("the first look has succeeded")
    }

    fn look(&mut self) -> Result<(Change, Option<RecoveryReport>)> {
        let dir = self.dir.clone();
        until_sound(&dir, self.patience, |uncounted| {
            let outcome = self.attempt(uncounted);
            if outcome.is_err() {
                self.known.forget_reads();
            }
            outcome
        })
    }

    fn attempt(&mut self, uncounted: &mut Duration) -> Result<(Change, Option<RecoveryReport>)> {
        let dir = self.dir.clone();
        let mut found = scan(&dir, Access::Onlooker(&mut self.known))?;
        let names = (std::mem::take(&mut found.listing.segments), found.current_bytes.take());
        if names == self.names && self.grow(&found) {
            return Ok((Change::SameSegments, None));
        }
        found.listing.segments.clone_from(&names.0);
        let mut notes = Vec::new();
        let remedy = remedy(&dir, &found, BelowFloor::Remove, &mut notes)?;
        let Remedy::Open(plan) = &remedy else {
            return Err(Error::NotFound { path: dir.path().clone() });
        };
        let start = dir.now();
        let verified = self.verify_chain(plan);
        *uncounted += dir.now().saturating_sub(start);
        notes.extend(verified?);
        let seen = self.see(plan);
        let cut = match &self.seen {
            Some(old) => cut_between(&dir, old, &seen)?,
            None => None,
        };
        let report = self.seen.is_none().then(|| forecast(&dir, &found, &remedy, notes));
        let resumed = found.tail.as_ref().is_some_and(|tail| tail.resumed);
        self.replace(seen, cut, resumed);
        self.index_tail(found.tail.as_ref().map_or(&[], |tail| &tail.index));
        self.names = names;
        Ok((Change::OtherSegments { cut }, report))
    }

    /// Takes over what the tail has in addition. `false` if more than that has changed.
    fn grow(&mut self, found: &Found) -> bool {
        let (Some(tail), Some(seen)) = (&found.tail, &mut self.seen) else { return false };
        let is_sound = tail.broken.is_none() && tail.facts.end >= tail.facts.promise();
        let (Some(promised), true) = (tail.promised, tail.resumed && is_sound) else {
            return false;
        };
        let Some((floor, state)) = &tail.state else { return false };
        seen.floor = seen.floor.max(*floor);
        if seen.floor >= tail.next {
            return false;
        }
        seen.durable = durable(tail, &promised).max(seen.floor);
        seen.last = shown(tail, &promised, self.visibility).max(seen.floor);
        let visible = tail.promised_state.as_ref();
        seen.state.clone_from(visible.filter(|_| self.visibility.is_durable()).unwrap_or(state));
        seen.durable_state.clone_from(visible.unwrap_or(state));
        seen.durable_end = promised.end;
        seen.end = tail.facts.end;
        seen.unpromised = unpromised(&self.known, self.visibility);
        self.index_tail(&tail.index);
        true
    }

    /// Verifies the sealed segments that are new. What has verified is not read again, even if this
    /// look fails.
    fn verify_chain(&mut self, plan: &Plan<'_>) -> Result<Vec<RecoveryNote>> {
        let known = |segment: &Segment, seal: &Seal| {
            let same = |sealed: &&Sealed| {
                (sealed.seal.number, sealed.seal.salt) == (seal.number, seal.salt)
                    && sealed.segment.first == segment.first
            };
            self.sealed.iter().find(same).cloned()
        };
        let chain = plan.chain.iter().map(|(segment, seal)| match known(segment, seal) {
            Some(old) => {
                if seal.end < old.seal.end {
                    old.segment.index.seal(seal.end);
                }
                let has_verified = old.has_verified && seal.end <= old.seal.end;
                Sealed { segment: old.segment, seal: seal.clone(), has_verified }
            }
            None => Sealed { segment: segment.clone(), seal: seal.clone(), has_verified: false },
        });
        self.sealed = chain.collect();
        let unverified: Vec<_> = (self.sealed.iter())
            .filter(|sealed| !sealed.has_verified)
            .map(|sealed| (sealed.segment.clone(), sealed.seal.clone()))
            .collect();
        let outcome =
            verify_sealed(&self.dir, Dir::open_segment, &unverified, plan.floor, self.verify);
        for sealed in &mut self.sealed {
            // A body that has verified has an index.
            sealed.has_verified |=
                outcome.is_ok() || (self.verify == Verify::Full && sealed.segment.index.is_known());
        }
        outcome
    }

    fn see(&self, plan: &Plan<'_>) -> Seen {
        let tail = plan.tail;
        let entry = |sealed: &Sealed| CatalogEntry {
            segment: sealed.segment.clone(),
            seal: Some(sealed.seal.clone()),
        };
        let promised = tail.promised_state.as_ref().filter(|_| self.visibility.is_durable());
        let header = &tail.header;
        let same_tail = self
            .seen
            .as_ref()
            .map(|seen| &seen.tail)
            .filter(|segment| (segment.number, segment.salt) == (header.number, header.salt));
        let new_tail = || Arc::new(Segment::new(header, tail.handle.path().clone()));
        Seen {
            sealed: self.sealed.iter().map(entry).collect(),
            tail: same_tail.cloned().unwrap_or_else(new_tail),
            floor: plan.floor,
            last: shown(tail, &plan.promised, self.visibility).max(plan.floor),
            durable: durable(tail, &plan.promised).max(plan.floor),
            state: promised.unwrap_or(&plan.state).clone(),
            log_id: header.log_id,
            durable_end: plan.promised.end,
            durable_state: tail.promised_state.as_ref().unwrap_or(&plan.state).clone(),
            handle: tail.handle.clone(),
            end: tail.facts.end,
            unpromised: unpromised(&self.known, self.visibility),
        }
    }

    /// `resumed`: whether the tail's earlier frames are where they were.
    fn replace(&mut self, mut seen: Seen, cut: Option<Cut>, resumed: bool) {
        match &self.seen {
            Some(old) if cut.is_none() => seen.floor = seen.floor.max(old.floor),
            _ => {}
        }
        let old_tail = self.seen.as_ref().map(|old| &old.tail);
        if old_tail.is_none_or(|tail| !Arc::ptr_eq(tail, &seen.tail)) {
            self.indexed = 0;
        } else if cut.is_some() || !resumed {
            // Other frames may be at these offsets now.
            seen.tail = Arc::new(seen.tail.without_index());
            self.indexed = 0;
        }
        self.seen = Some(seen);
    }

    /// Adds the new frames to the index of the tail. A frame that is not shown may be replaced by
    /// another one, so it gets no entry.
    fn index_tail(&mut self, index: &[IndexEntry]) {
        let Some(seen) = &self.seen else { return };
        let new = index.get(self.indexed..).unwrap_or_default();
        let count = new.partition_point(|entry| entry.lsn <= seen.last);
        if count > 0 || self.indexed == 0 {
            let bytes = seen.end;
            seen.tail.index.extend(&new[..count], bytes);
            self.indexed += count;
        }
    }
}

/// Returns the last record of the tail that is shown.
fn shown(tail: &TailScan, promised: &PromisedPart, visibility: Visibility) -> Lsn {
    if visibility.is_durable() { durable(tail, promised) } else { tail.next.previous() }
}

/// Returns the last record that a promise covers.
fn durable(tail: &TailScan, promised: &PromisedPart) -> Lsn {
    let next = promised.last.and_then(|last| last.header.next());
    next.unwrap_or(tail.header.first).previous()
}

fn unpromised(known: &Known, visibility: Visibility) -> Vec<(u64, FrameHeader)> {
    if visibility.is_durable() { Vec::new() } else { known.unpromised().to_vec() }
}
