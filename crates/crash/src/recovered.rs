//! Checks that every image opens, and that one more record can be appended to it.

use std::sync::Arc;

use seawall::Wal;
use seawall::sim::SimFs;

use crate::history::Setup;
use crate::ledger::{Ledger, Stored};
use crate::machine::home;
use seawall_testkit::{Kind, Violation};

/// Opens the log of an image that a crash left.
pub(crate) fn open(setup: Setup, image: &SimFs) -> Result<Wal, Violation> {
    setup.options().open_on(Arc::new(image.clone()), home(image)).map_err(|error| {
        Violation::new(Kind::FalseCorrupt, format!("open fails: {error} {error:?}"))
    })
}

/// Appends one more record, syncs, and enters the record in the ledger.
pub(crate) fn append_one_more(wal: &Wal, ledger: &mut Ledger) -> Result<(), Violation> {
    let more = Stored { payload: Box::from(&b"one more"[..]), ..Stored::default() };
    let more = Arc::new(more);
    ledger.content.submit(std::slice::from_ref(&more));
    let appended = wal.append(more.entry()).and_then(|lsn| wal.sync().map(|_| lsn));
    if appended.as_ref().ok().is_none_or(|lsn| u64::from(*lsn) != ledger.last()) {
        let what = format!("the append after recovery returns {appended:?}");
        return Err(Violation::new(Kind::Broken, what));
    }
    ledger.content.note_durable(ledger.last());
    Ok(())
}
