//! `tail`: the last records, and each new one as it comes. The writer is another process.

use std::path::Path;
use std::time::Duration;

use seawall::options::Visibility;
use seawall::{Error, Follower, Lsn, ReadOnlyWal, Record};

use crate::args;
use crate::failure::{Failure, Outcome};
use crate::record::{self, Json, View};
use crate::ui::{Tone, Ui};

use super::{layout, look};

/// How long to wait for a record before a look at what was proven meanwhile.
const PATIENCE: Duration = Duration::from_millis(50);

pub(crate) fn run(args: &args::Tail, ui: &mut Ui) -> Outcome {
    layout(&args.dir)?; // An empty directory is no log.
    let failed = |error: Error| Failure::log(&error, &args.dir);
    let wal = look(&args.dir, Visibility::Appended).map_err(failed)?;
    let last = wal.last_lsn();
    let first = match args.from {
        Some(from) => from.or_last(last).max(wal.first_lsn()),
        None => last.next().saturating_sub(args.lines).max(wal.first_lsn()),
    };
    let mut tail = Tail { args, ui, unproven: None };
    let mut follower = wal.follow(first.previous());
    loop {
        let Some(after) = tail.follow(&wal, &mut follower)? else { continue };
        follower = wal.follow(after);
    }
}

struct Tail<'a> {
    args: &'a args::Tail,
    ui: &'a mut Ui,
    /// The last record that was printed as unproven.
    unproven: Option<Lsn>,
}

impl Tail<'_> {
    /// Prints what comes within a short time. Returns where to go on, if the log was cut.
    fn follow(&mut self, wal: &ReadOnlyWal, follower: &mut Follower) -> Outcome<Option<Lsn>> {
        let mut item = follower.try_next();
        if matches!(item, Some(Err(Error::TimedOut))) {
            self.ui.flush()?;
            self.prove(wal)?;
            item = follower.next_timeout(PATIENCE);
        }
        loop {
            match item {
                Some(Ok(record)) => self.print(&record, wal.durable_lsn())?,
                None | Some(Err(Error::TimedOut)) => return Ok(None),
                Some(Err(error)) => return self.cut(&error).map(Some),
            }
            item = follower.try_next();
        }
    }

    fn print(&mut self, record: &Record, durable: Lsn) -> Outcome<()> {
        let is_proven = record.lsn() <= durable;
        if !is_proven {
            self.unproven = Some(record.lsn());
        }
        if self.args.json {
            let record = Json { proven: Some(is_proven), ..Json::of(View::from(record)) };
            self.ui.json(&record)?;
        } else {
            record::write_line(&mut self.ui.out, View::from(record), is_proven)?;
        }
        Ok(())
    }

    /// Says that records which were printed as unproven are proven now.
    fn prove(&mut self, wal: &ReadOnlyWal) -> Outcome<()> {
        let durable = wal.durable_lsn();
        if self.unproven.is_none_or(|unproven| durable < unproven) {
            return Ok(());
        }
        self.unproven = None;
        if self.args.json {
            self.ui.json(&serde_json::json!({ "proven_up_to": durable.get() }))?;
            self.ui.flush()?;
        } else {
            self.ui.tell(Tone::Faint, format!("-- durable up to LSN {durable} --"));
        }
        Ok(())
    }

    /// Says that records were removed, and returns after which record to go on.
    fn cut(&mut self, error: &Error) -> Outcome<Lsn> {
        self.ui.flush()?;
        let dir: &Path = &self.args.dir;
        let (text, after, key) = match error {
            Error::Truncated { last, .. } => (
                format!("-- the records after LSN {last} were truncated --"),
                *last,
                "truncated_after",
            ),
            Error::Removed { first, .. } => {
                let last = first.previous();
                (
                    format!("-- a checkpoint gave up the records up to LSN {last} --"),
                    last,
                    "removed_up_to",
                )
            }
            other => return Err(Failure::log(other, dir)),
        };
        self.unproven = self.unproven.filter(|unproven| *unproven <= after);
        if self.args.json {
            self.ui.json(&serde_json::json!({ key: after.get() }))?;
            self.ui.flush()?;
        } else {
            self.ui.tell(Tone::Warning, text);
        }
        Ok(after)
    }
}
