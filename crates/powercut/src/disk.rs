//! A disk in memory with an ordered log of all changes. Its power can be cut at any place of that
//! log.
//!
//! ```text
//! base      what all disks of a run share: the fresh file system
//! durable   what a flush had made durable when this disk was cut from another one
//! live      everything since then: what reads see
//! ```

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use seawall_testkit::Dice;

pub(crate) const PAGE_BYTES: u64 = 4096;
const PAGE: usize = 4096;
const SECTOR_BYTES: u64 = 512;

type Page = Arc<[u8; PAGE]>;

/// Pages by number. A missing page is in another layer, or is zero.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pages(HashMap<u64, Page>);

/// One operation on a disk.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// Bytes written.
    Write { offset: u64, bytes: Arc<[u8]> },
    /// Bytes discarded or zeroed.
    Punch { offset: u64, len: u64 },
    /// Makes all earlier operations durable.
    Flush,
    /// A flush that was reported as failed. It makes nothing durable.
    FailedFlush,
    /// A write that was reported as failed, or that a failed flush lost. The disk does not have it.
    Lost { offset: u64, len: u64 },
}

/// Which of the unflushed writes a power cut leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Cut {
    /// None.
    Dropped,
    /// All.
    Kept,
    /// A random subset of the 4 KiB pages of each.
    Pages,
    /// A random subset of the 512-byte sectors of each.
    Sectors,
}

impl Cut {
    pub(crate) const ALL: [Cut; 4] = [Cut::Dropped, Cut::Kept, Cut::Pages, Cut::Sectors];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Cut::Dropped => "dropped",
            Cut::Kept => "kept",
            Cut::Pages => "pages",
            Cut::Sectors => "sectors",
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Cut {
    type Err = ();

    fn from_str(name: &str) -> Result<Cut, ()> {
        Cut::ALL.into_iter().find(|cut| cut.name() == name).ok_or(())
    }
}

/// A disk.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    bytes: u64,
    base: Arc<Pages>,
    durable: Pages,
    live: Pages,
    /// The content of `live` when the log was empty.
    start: Pages,
    log: Vec<Event>,
    /// How many events `durable` holds of the log of the disk from which this one was cut.
    durable_events: usize,
}

impl Disk {
    pub(crate) fn new(bytes: u64) -> Disk {
        Disk {
            bytes,
            base: Arc::default(),
            durable: Pages::default(),
            live: Pages::default(),
            start: Pages::default(),
            log: Vec::new(),
            durable_events: 0,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn log(&self) -> &[Event] {
        &self.log
    }

    /// Makes the present content the beginning, to which `reset` returns.
    pub(crate) fn set_base(&mut self) {
        let mut base = (*self.base).clone();
        base.0.extend(self.durable.0.drain());
        base.0.extend(self.live.0.drain());
        base.0.retain(|_, page| page.iter().any(|byte| *byte != 0));
        self.base = Arc::new(base);
        self.reset();
    }

    /// Returns to the beginning, with an empty log.
    pub(crate) fn reset(&mut self) {
        self.durable.0.clear();
        self.live.0.clear();
        self.start.0.clear();
        self.log.clear();
        self.durable_events = 0;
    }

    pub(crate) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = (offset + len as u64).min(self.bytes);
        let mut bytes = Vec::with_capacity(len);
        for (page, from, to) in pieces(offset, end.saturating_sub(offset), PAGE_BYTES) {
            let start = within(from);
            let end = within_end(to, from);
            match find(&[&self.live, &self.durable, &self.base], page) {
                Some(page) => bytes.extend_from_slice(&page[start..end]),
                None => bytes.resize(bytes.len() + (end - start), 0),
            }
        }
        bytes
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        put(&mut self.live, &[&self.durable, &self.base], offset, bytes);
        self.log.push(Event::Write { offset, bytes: bytes.into() });
    }

    /// Notes a write that fails.
    pub(crate) fn lose_write(&mut self, offset: u64, len: u64) {
        self.log.push(Event::Lost { offset, len });
    }

    pub(crate) fn punch(&mut self, offset: u64, len: u64) {
        let len = len.min(self.bytes.saturating_sub(offset));
        zero(&mut self.live, &[&self.durable, &self.base], offset, len);
        self.log.push(Event::Punch { offset, len });
    }

    pub(crate) fn flush(&mut self) {
        self.log.push(Event::Flush);
    }

    /// Notes a flush that fails. The unflushed writes that `loses` selects are lost with it, but
    /// reads still see them.
    pub(crate) fn fail_flush(&mut self, loses: impl Fn(&[u8]) -> bool) {
        let from = flushed(&self.log);
        for event in &mut self.log[from..] {
            if let Event::Write { offset, bytes } = event {
                if loses(bytes) {
                    *event = Event::Lost { offset: *offset, len: bytes.len() as u64 };
                }
            }
        }
        self.log.push(Event::FailedFlush);
    }

    /// Becomes the disk `source` after a power cut after the first `events` of its log.
    pub(crate) fn cut_from(
        &mut self,
        source: &Disk,
        events: usize,
        cut: Cut,
        seed: u64,
        whole: &[u64],
    ) {
        let log = &source.log[..events.min(source.log.len())];
        let flushed = flushed(log);
        if !Arc::ptr_eq(&self.base, &source.base)
            || self.durable_events > flushed
            || self.durable_events == 0
        {
            self.base = source.base.clone();
            self.durable = source.start.clone();
            self.durable_events = 0;
        }
        for event in &log[self.durable_events..flushed] {
            apply(&mut self.durable, &[&self.base], event);
        }
        self.durable_events = flushed;
        self.live.0.clear();
        leave(&mut self.live, &[&self.durable, &self.base], &log[flushed..], cut, seed, whole);
        self.start = self.live.clone();
        self.log.clear();
    }

    /// Becomes this disk after a power cut after the first `events` of its own log. Forgets the
    /// other events.
    pub(crate) fn cut_again(&mut self, events: usize, cut: Cut, seed: u64, whole: &[u64]) {
        let log = std::mem::take(&mut self.log);
        let log = &log[..events.min(log.len())];
        let flushed = flushed(log);
        self.live = self.start.clone();
        for event in &log[..flushed] {
            apply(&mut self.live, &[&self.durable, &self.base], event);
        }
        leave(&mut self.live, &[&self.durable, &self.base], &log[flushed..], cut, seed, whole);
        self.start = self.live.clone();
    }
}

/// How many events the last flush covers.
fn flushed(log: &[Event]) -> usize {
    log.iter().rposition(|event| matches!(event, Event::Flush)).unwrap_or(0)
}

fn apply(target: &mut Pages, below: &[&Pages], event: &Event) {
    match event {
        Event::Write { offset, bytes } => put(target, below, *offset, bytes),
        Event::Punch { offset, len } => zero(target, below, *offset, *len),
        Event::Flush | Event::FailedFlush | Event::Lost { .. } => {}
    }
}

/// Applies the operations of `log` that a power cut leaves. The pages in `whole` are never torn.
fn leave(target: &mut Pages, below: &[&Pages], log: &[Event], cut: Cut, seed: u64, whole: &[u64]) {
    let mut dice = Dice::new(seed);
    let eighths = [1, 4, 7][usize::try_from(dice.below(3)).unwrap_or(0)];
    for event in log {
        let unit = match cut {
            Cut::Dropped => continue,
            Cut::Kept => {
                apply(target, below, event);
                continue;
            }
            Cut::Pages => PAGE_BYTES,
            Cut::Sectors => SECTOR_BYTES,
        };
        let (offset, len) = match event {
            Event::Write { offset, bytes } => (*offset, bytes.len() as u64),
            Event::Punch { offset, len } => (*offset, *len),
            _ => continue,
        };
        for (page, from, to) in pieces(offset, len, PAGE_BYTES) {
            let unit = if whole.contains(&page) { PAGE_BYTES } else { unit };
            for (_, from, to) in pieces(from, to - from, unit) {
                if !dice.chance(eighths) {
                    continue;
                }
                match event {
                    Event::Write { bytes, .. } => {
                        let piece = &bytes[index(from - offset)..index(to - offset)];
                        put(target, below, from, piece);
                    }
                    _ => zero(target, below, from, to - from),
                }
            }
        }
    }
}

/// Splits a range at multiples of `unit`. Returns the number of each unit, and the beginning and
/// the end of the piece in it.
fn pieces(offset: u64, len: u64, unit: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let number = at / unit;
            let from = at;
            at = end.min((number + 1) * unit);
            (number, from, at)
        })
    })
}

fn put(target: &mut Pages, below: &[&Pages], offset: u64, bytes: &[u8]) {
    for (number, from, to) in pieces(offset, bytes.len() as u64, PAGE_BYTES) {
        let piece = &bytes[index(from - offset)..index(to - offset)];
        let page = page_mut(target, below, number);
        page[within(from)..within_end(to, from)].copy_from_slice(piece);
    }
}

fn zero(target: &mut Pages, below: &[&Pages], offset: u64, len: u64) {
    for (number, from, to) in pieces(offset, len, PAGE_BYTES) {
        let there = target.0.contains_key(&number) || find(below, number).is_some();
        if there {
            page_mut(target, below, number)[within(from)..within_end(to, from)].fill(0);
        }
    }
}

fn page_mut<'a>(target: &'a mut Pages, below: &[&Pages], number: u64) -> &'a mut [u8; PAGE] {
    let page = target.0.entry(number);
    let page =
        page.or_insert_with(|| find(below, number).cloned().unwrap_or_else(|| Arc::new([0; PAGE])));
    Arc::make_mut(page)
}

fn find<'a>(layers: &[&'a Pages], number: u64) -> Option<&'a Page> {
    layers.iter().find_map(|layer| layer.0.get(&number))
}

fn within(offset: u64) -> usize {
    index(offset % PAGE_BYTES)
}

/// The end, within its page, of a piece that begins at `from`.
fn within_end(to: u64, from: u64) -> usize {
    index(to - from / PAGE_BYTES * PAGE_BYTES)
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("the bytes are in memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Disk {
        let mut disk = Disk::new(1 << 20);
        disk.write(0, &[1; 8192]);
        disk.flush();
        disk.write(1024, &[2; 8192]);
        disk.punch(0, 512);
        disk
    }

    #[test]
    fn reads_see_writes_and_punches_and_end_at_the_end_of_the_disk() {
        let disk = written();
        let bytes = disk.read(0, 16384);
        assert_eq!((bytes[0], bytes[511], bytes[512], bytes[1023]), (0, 0, 1, 1));
        assert_eq!((bytes[1024], bytes[9215], bytes[9216]), (2, 2, 0));
        assert_eq!(disk.read((1 << 20) - 10, 100).len(), 10);
    }

    #[test]
    fn a_cut_keeps_the_flushed_writes_and_the_other_writes_that_its_kind_selects() {
        let source = written();
        let mut image = Disk::new(source.bytes());
        for events in 0..=source.log().len() {
            image.cut_from(&source, events, Cut::Dropped, 0, &[]);
            let expected = if events < 2 { 0 } else { 1 };
            assert!(image.read(0, 8192).iter().all(|byte| *byte == expected), "{events}");
        }
        image.cut_from(&source, 4, Cut::Kept, 0, &[]);
        assert_eq!(image.read(0, 16384), source.read(0, 16384));
        let mut torn = 0;
        for seed in 0..64 {
            image.cut_from(&source, 4, Cut::Sectors, seed, &[1]);
            let bytes = image.read(0, 16384);
            for sector in bytes.chunks(512) {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "no sector is torn");
            }
            assert!(
                bytes[4096..8192].iter().all(|byte| *byte == bytes[4096]),
                "a whole page is not torn"
            );
            torn += usize::from(bytes[1024..4096].iter().any(|byte| *byte != bytes[1024]));
        }
        assert!(torn > 20, "{torn} images are torn");
    }

    #[test]
    fn a_disk_cut_from_another_can_be_cut_again() {
        let source = written();
        let mut image = Disk::new(source.bytes());
        image.cut_from(&source, 4, Cut::Kept, 0, &[]);
        image.write(0, &[3; 4096]);
        image.flush();
        image.write(4096, &[4; 4096]);
        image.cut_again(3, Cut::Dropped, 0, &[]);
        let bytes = image.read(0, 8192);
        assert_eq!((bytes[0], bytes[4096]), (3, 2));
    }

    #[test]
    fn a_failed_flush_makes_nothing_durable_and_may_lose_its_writes() {
        let mut source = written();
        source.fail_flush(|bytes| bytes[0] == 2);
        source.write(65536, &[5; 512]);
        source.flush();
        assert_eq!(source.read(1024, 1), [2]);
        let mut image = Disk::new(source.bytes());
        image.cut_from(&source, source.log().len(), Cut::Dropped, 0, &[]);
        assert_eq!(
            (image.read(0, 1), image.read(1024, 1), image.read(65536, 1)),
            (vec![0], vec![1], vec![5])
        );
    }
}
