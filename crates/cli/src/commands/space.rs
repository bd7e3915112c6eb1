//! `checkpoint` and `truncate`: records are given up, at the start of the log or at its end.

use seawall::{LsnRange, Options};
use serde_json::json;

use crate::args;
use crate::failure::{Failure, Outcome, Verdict};
use crate::finding::{Finding, Run};
use crate::ui::{self, Ui};

use super::writing::{
    close, confirm, described, guard_retired, look_before, open, refuse_if_changed, wholly_below,
};

pub(crate) fn checkpoint(args: &args::Checkpoint, ui: &mut Ui) -> Outcome {
    let dir = &args.dir;
    let (seen, sealed) = look_before(dir)?;
    guard_retired(dir, &args.retired, &seen, &sealed)?;
    let lsn = args.up_to.or_last(seen.last_lsn());
    let first = seen.first_lsn();
    if lsn > seen.last_lsn() {
        return Err(out_of_range(lsn.get(), &seen).into());
    }
    if lsn < first {
        let floor = first.previous();
        match args.json {
            true => ui.json(&json!({
                "checkpoint": floor.get(), "given_up": null, "unarchived_segments": null,
            }))?,
            false => ui.line(format!("the checkpoint is at LSN {floor} already"))?,
        }
        return Ok(Verdict::Sound);
    }
    let given_up = ui::runs(&[LsnRange::new(first, lsn)]);
    let files = described(&wholly_below(&sealed, lsn));
    let fate = if args.retired.archive.is_some() { "archives" } else { "removes" };
    confirm(args.yes, &format!("This gives up {given_up}, and {fate} {files}."), ui)?;
    let wal = open(dir, &options(), &args.retired, ui)?;
    refuse_if_changed(dir, &seen, &wal)?;
    wal.checkpoint(lsn).map_err(|error| Failure::log(&error, dir))?;
    let unarchived = wal.stats().unarchived_segments;
    if args.json {
        let given_up = Run { first: first.get(), last: lsn.get() };
        ui.json(&json!({
            "checkpoint": lsn.get(), "given_up": given_up, "unarchived_segments": unarchived,
        }))?;
    } else {
        ui.line(format!("checkpoint at LSN {lsn}: gave up {given_up}"))?;
    }
    close(&wal, dir, &format!("the checkpoint at LSN {lsn}"))?;
    if unarchived > 0 {
        let waiting = ui::counted(unarchived, "segment");
        return Err(Failure::refused(format!("the archive has not taken {waiting}"))
            .remedy("see why:  seawall archive DIR --to ARCHIVE")
            .into());
    }
    Ok(Verdict::Sound)
}

pub(crate) fn truncate(args: &args::Truncate, ui: &mut Ui) -> Outcome {
    let dir = &args.dir;
    let (seen, sealed) = look_before(dir)?;
    guard_retired(dir, &args.retired, &seen, &sealed)?;
    let after = args.after.or_last(seen.last_lsn());
    let floor = seen.first_lsn().previous();
    if after < floor || after > seen.last_lsn() {
        return Err(out_of_range(after.get(), &seen).into());
    }
    if after == seen.last_lsn() {
        match args.json {
            true => ui.json(&json!({ "last": after.get(), "removed": null }))?,
            false => ui.line(format!("nothing to remove: LSN {after} is the last record"))?,
        }
        return Ok(Verdict::Sound);
    }
    let removed = ui::runs(&[LsnRange::new(after.next(), seen.last_lsn())]);
    let question = format!("This removes {removed} for ever. New records get their LSNs.");
    confirm(args.yes, &question, ui)?;
    let wal = open(dir, &options(), &args.retired, ui)?;
    refuse_if_changed(dir, &seen, &wal)?;
    wal.truncate_after(after).map_err(|error| Failure::log(&error, dir))?;
    if args.json {
        let removed = Run { first: after.next().get(), last: seen.last_lsn().get() };
        ui.json(&json!({ "last": after.get(), "removed": removed }))?;
    } else {
        ui.line(format!("truncated after LSN {after}: removed {removed}"))?;
    }
    close(&wal, dir, &format!("the truncation after LSN {after}"))?;
    Ok(Verdict::Sound)
}

fn options() -> Options {
    Options::new().create_if_missing(false)
}

fn out_of_range(lsn: u64, seen: &seawall::ReadOnlyWal) -> Finding {
    let finding = Failure::refused(format!("LSN {lsn} is out of range; nothing was changed"));
    let last = seen.last_lsn();
    let floor = seen.first_lsn().previous();
    match last < seen.first_lsn() {
        true => finding.remedy(format!("the log has no record above its checkpoint, LSN {floor}")),
        false => finding.remedy(format!("use an LSN from {floor} to {last}")),
    }
}
