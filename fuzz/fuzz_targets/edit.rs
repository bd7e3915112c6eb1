//! Edits the files of a valid log by a script. The check uses only the promises of the format. An
//! open either refuses with nothing changed, or returns every record up to the end that the files
//! vouch for, byte for byte, and no other record. A closed log returns everything if its CURRENT is
//! unchanged, or if CURRENT is the only edited file.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use seawall::options::{Preallocate, Verify};
use seawall::report::RecoveryAction;
use seawall::sim::SimFs;
use seawall::{Durability, Error, Lsn, Options, Wal};
use seawall_fuzz::Input;
use seawall_fuzz::disk::{DIR, Files, files, path};
use seawall_fuzz::format::{Current, Segment, after_gap, segment_number, walk, walk_from};
use seawall_testkit::disk::put;

const CALLS_MAX: usize = 24;
const EDITS_MAX: usize = 6;
/// The name of the segment with the last number.
const LAST_NAME: &str = "wal-18446744073709551615.log";

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let made = make(&mut input);
    let original = files(&made.disk);
    for _ in 0..EDITS_MAX {
        if input.is_empty() {
            break;
        }
        edit(&made, &mut input);
    }
    let edited = files(&made.disk);
    judge(&made, &original, &edited);
});

/// A log at rest, and what was written to it.
struct Made {
    disk: SimFs,
    options: Options,
    /// The records from LSN 1 on.
    records: Vec<Vec<u8>>,
    /// The last LSN that was acknowledged and that survived the end of the log.
    promised: u64,
    floor: u64,
    state: Vec<u8>,
    closed: bool,
    /// The files at some earlier moment.
    older: Files,
}

fn make(input: &mut Input<'_>) -> Made {
    let (mode, calls) = (input.byte(), usize::from(input.byte()) % CALLS_MAX);
    let mut disk = SimFs::new(u64::from(mode));
    let options = Options::new()
        .segment_bytes(16 << 10)
        .preallocate(if mode & 1 != 0 { Preallocate::Auto } else { Preallocate::Off })
        .durability(if mode & 2 != 0 { Durability::Buffered } else { Durability::Sync })
        .verify(if mode & 4 != 0 { Verify::Tail } else { Verify::Full });
    let open =
        |disk: &SimFs| options.open_on(Arc::new(disk.clone()), DIR).expect("the disk is sound");
    let mut wal = open(&disk);
    let (mut records, mut floor, mut state, mut older) = (Vec::new(), 0, Vec::new(), Files::new());
    for _ in 0..calls {
        match input.byte() % 16 {
            0..=4 => {
                records.push(payload(&records, input.byte()));
                wal.append(records.last().expect("a record was pushed"))
                    .expect("the disk is sound");
            }
            5..=6 => {
                let start = records.len();
                for _ in 0..=input.below(3) {
                    records.push(payload(&records, input.byte()));
                }
                wal.append_batch(&records[start..]).expect("the disk is sound");
            }
            7..=8 => {
                wal.sync().expect("the disk is sound");
            }
            9 => {
                state = vec![input.byte(); usize::from(input.byte()) * 4];
                wal.set_state(&state).expect("the disk is sound");
            }
            10 => wal.rotate().expect("the disk is sound"),
            11 => {
                let last = records.len() as u64;
                let target = last.saturating_sub(input.below(6) as u64);
                wal.checkpoint(Lsn::from(target)).expect("the disk is sound");
                floor = floor.max(target);
            }
            12..=13 => {
                wal.close().expect("the disk is sound");
                wal = open(&disk);
            }
            14 => older = files(&disk),
            _ => {
                // The power fails. No promised record is lost.
                let durable = wal.durable_lsn();
                let next = disk.power_cuts().random(u64::from(input.byte()));
                stop(&disk, wal);
                disk = next;
                wal = open(&disk);
                assert!(wal.last_lsn() >= durable, "every durable record is in the log");
                let left = usize::try_from(u64::from(wal.last_lsn())).expect("few records");
                if left < records.len() {
                    records.truncate(left);
                    older.clear(); // Other records will have these LSNs.
                }
            }
        }
    }
    let ending = mode >> 4;
    let closed = ending < 8;
    let promised = match ending {
        0..=7 => {
            wal.close().expect("the disk is sound");
            records.len() as u64
        }
        _ => u64::from(wal.durable_lsn()),
    };
    let next = match ending {
        8..=11 => disk.power_cuts().random(u64::from(input.byte())),
        _ => disk.process_kill(),
    };
    stop(&disk, wal);
    Made { disk: next, options, records, promised, floor, state, closed, older }
}

/// Drops the log without letting it make any call.
fn stop(disk: &SimFs, wal: Wal) {
    disk.crash_at(disk.calls());
    drop(wal);
}

/// Bytes that no other record has.
fn payload(records: &[Vec<u8>], shape: u8) -> Vec<u8> {
    let bytes = match shape {
        0..=199 => usize::from(shape),
        200..=249 => usize::from(shape - 199) * 100,
        _ => usize::from(shape - 249) * 3000,
    };
    let mut payload = (records.len() as u64).to_le_bytes().to_vec();
    payload.resize(8 + bytes, shape);
    payload
}

/// Edits one file or two.
fn edit(made: &Made, input: &mut Input<'_>) {
    let disk = &made.disk;
    let names: Vec<String> = files(disk).into_keys().collect();
    if names.is_empty() {
        return;
    }
    let kind = input.byte() % 16;
    let name = &names[input.below(names.len())];
    let bytes = disk.bytes(path(name)).expect("the file was listed");
    let at = place(input, bytes.len());
    match kind {
        0..=2 => {
            let bit = input.byte() % 8;
            change(disk, name, at, 1, |bytes| bytes[0] ^= 1 << bit);
        }
        3 => {
            let value = input.byte();
            change(disk, name, at, 1, |bytes| bytes[0] = value);
        }
        4 => change(disk, name, at, length(input), |bytes| bytes.fill(0)),
        5 => change(disk, name, at / 512 * 512, 512, |bytes| bytes.fill(0)),
        6 => {
            let with = input.take(16).to_vec();
            change(disk, name, at, with.len(), |bytes| bytes.copy_from_slice(&with[..bytes.len()]));
        }
        7 => {
            // Bytes from another file, perhaps from an earlier time.
            let other = &names[input.below(names.len())];
            let source = match made.older.get(other) {
                Some(older) if input.byte() & 1 != 0 => older.clone(),
                _ => disk.bytes(path(other)).expect("the file was listed"),
            };
            let (start, count) = (place(input, source.len()), length(input));
            let copied = &source[start..source.len().min(start + count)];
            change(disk, name, at, copied.len(), |bytes| {
                bytes.copy_from_slice(&copied[..bytes.len()])
            });
        }
        8 => disk.damage(path(name), |bytes| bytes.truncate(at)),
        9 => {
            let (count, value) = (length(input), input.byte());
            disk.damage(path(name), |bytes| bytes.resize(bytes.len() + count, value));
        }
        10 => disk.lose(path(name)),
        11 => {
            // A copy under another name, or under the name of another file.
            let to = match input.byte() {
                254 => "CURRENT".to_owned(),
                255 => LAST_NAME.to_owned(),
                number => format!("wal-{:06}.log", u64::from(number) % 12 + 1),
            };
            put(disk, path(&to), bytes);
            if input.byte() & 1 != 0 && to != *name {
                disk.lose(path(name));
            }
        }
        12 => {
            if let Some(older) = made.older.get(name) {
                disk.damage(path(name), |bytes| bytes.clone_from(older));
            }
        }
        13 => {
            // Two sectors change places.
            let (one, two) = (at / 512 * 512, place(input, bytes.len()) / 512 * 512);
            disk.damage(path(name), |bytes| {
                for at in 0..512 {
                    if one.max(two) + at < bytes.len() {
                        bytes.swap(one + at, two + at);
                    }
                }
            });
        }
        14 => {
            let other = &names[input.below(names.len())];
            let theirs = disk.bytes(path(other)).expect("the file was listed");
            disk.damage(path(name), |own| own.clone_from(&theirs));
            disk.damage(path(other), |own| own.clone_from(&bytes));
        }
        _ => {
            for (name, older) in &made.older {
                put(disk, path(name), older.clone());
            }
        }
    }
}

/// An offset in a file of this many bytes: near the fields of a header, or anywhere.
fn place(input: &mut Input<'_>, bytes: usize) -> usize {
    let (kind, word) = (input.byte(), usize::from(input.word()));
    let at = match kind % 4 {
        0 => word % 128 + if kind & 4 != 0 { 4096 } else { 0 },
        1 => 8192 + word % 1024,
        2 => (bytes / 3 * 2).saturating_add(word),
        _ => word,
    };
    at % bytes.max(1)
}

fn length(input: &mut Input<'_>) -> usize {
    let byte = usize::from(input.byte());
    if byte < 128 { byte + 1 } else { (byte - 127) * 64 }
}

fn change(disk: &SimFs, name: &str, at: usize, count: usize, change: impl FnOnce(&mut [u8])) {
    disk.damage(path(name), |bytes| {
        let end = bytes.len().min(at + count);
        if at < end {
            change(&mut bytes[at..end]);
        }
    });
}

/// The content that the files vouch for, by the format alone.
struct Vouched {
    last: u64,
    state_frame: (u64, Vec<u8>),
}

/// Returns `Err` if no open may succeed, and `Ok(None)` if there is no log any more.
fn vouched(edited: &Files) -> Result<Option<Vouched>, &'static str> {
    // A sound header whose number differs from the file's name makes the file a copy.
    let segments = edited.iter().filter_map(|(name, bytes)| Some((segment_number(name)?, bytes)));
    let own = |number: u64, bytes: &[u8]| Segment::read(bytes).map_or(number, |own| own.number);
    let newest = segments.clone().filter(|(number, bytes)| own(*number, bytes) == *number);
    let newest = newest.map(|(number, _)| number).max();
    if segments.map(|(number, bytes)| own(number, bytes)).max() > newest {
        return Err("there is only a copy of the newest segment");
    }
    let current_file = edited.get("CURRENT");
    let Some(number) = newest else {
        return if current_file.is_some() {
            Err("CURRENT is there, but no segment")
        } else {
            Ok(None)
        };
    };
    let bytes = &edited[&format!("wal-{number:06}.log")];
    let header = Segment::read(bytes).ok_or("the newest header is damaged")?;
    let mut walked = walk(bytes, &header);
    let mut promise = header.initial_end.max(walked.promised);
    if let Some(current) = current_file.and_then(|bytes| Current::read(bytes)) {
        if current.number > number {
            return Err("CURRENT names a newer segment");
        }
        if current.number == number {
            if current.salt != header.salt {
                return Err("CURRENT names another segment");
            }
            promise = promise.max(current.end);
        }
    }
    if (walked.end as u64) < promise {
        if let Some((offset, next)) = after_gap(bytes, &header, &walked, promise) {
            walked = walk_from(bytes, &header, offset, next);
        }
    }
    if (walked.end as u64) < promise {
        return Err("synced bytes do not verify");
    }
    let state_frame = walked.state_frame.ok_or("there is no state frame")?;
    Ok(Some(Vouched { last: walked.next - 1, state_frame }))
}

fn judge(made: &Made, original: &Files, edited: &Files) {
    let opened = made.options.open_on(Arc::new(made.disk.clone()), DIR);
    let wal = match opened {
        Ok(wal) => wal,
        Err(error) => {
            assert!(original != edited, "nothing was edited, but the open fails: {error}");
            let told = matches!(
                error,
                Error::Corrupt { .. }
                    | Error::MissingSegment { .. }
                    | Error::UnsupportedVersion { .. }
                    | Error::NotALog { .. }
            );
            // A copy with the last number leaves no number for a new segment.
            let last_taken =
                matches!(&error, Error::Io { path: at, .. } if **at == path(LAST_NAME));
            assert!(
                told || last_taken && edited.contains_key(LAST_NAME),
                "an unexpected error: {error}"
            );
            assert!(*edited == files(&made.disk), "{error}, but a file was changed");
            return;
        }
    };
    let vouched = match vouched(edited) {
        Err(reason) => panic!("{reason}, but the log opens: {:?}", wal.recovery()),
        Ok(None) => {
            assert_eq!(wal.recovery().action, RecoveryAction::Created, "there was no log");
            return;
        }
        Ok(Some(vouched)) => vouched,
    };
    let (first, last, state) = (u64::from(wal.first_lsn()), u64::from(wal.last_lsn()), wal.state());
    assert_eq!(
        (last, first - 1, &state),
        (vouched.last, vouched.state_frame.0, &vouched.state_frame.1),
        "last, floor, state"
    );
    let whole = check_records(made, &wal);

    // Which files differ from the original.
    let changed = |name: &String| original.get(name) != edited.get(name);
    let names: Vec<&String> =
        original.keys().chain(edited.keys()).filter(|name| changed(name)).collect();
    let current_alone = names.iter().all(|name| *name == "CURRENT");
    let current_same = !names.iter().any(|name| *name == "CURRENT");
    if made.closed && (current_alone || current_same) {
        let given = (made.records.len() as u64, made.floor, &made.state);
        assert_eq!((last, first - 1, &state), given, "a closed log returns everything");
    }
    if names.is_empty() {
        assert!(whole && last >= made.promised, "nothing was edited: {last} of {}", made.promised);
    }

    // A later open returns the same content.
    let expected =
        [&made.records[..usize::try_from(last).expect("few records")], &[b"one more".to_vec()]]
            .concat();
    assert_eq!(wal.append(b"one more").expect("the log is open"), Lsn::from(last + 1));
    wal.close().expect("the log is open");
    drop(wal);
    match made.options.open_on(Arc::new(made.disk.clone()), DIR) {
        Ok(wal) => {
            let shown = (u64::from(wal.first_lsn()), u64::from(wal.last_lsn()), wal.state());
            assert_eq!(shown, (first, last + 1, state), "a later open returns the same content");
            let again = Made {
                records: expected,
                disk: made.disk.clone(),
                options: made.options.clone(),
                older: Files::new(),
                state: Vec::new(),
                ..*made
            };
            assert_eq!(check_records(&again, &wal), whole);
        }
        Err(error) => panic!("the log was opened before: {error}"),
    }
}

/// Compares every record. Returns `false` if the open did not verify bodies and one of them is
/// damaged.
fn check_records(made: &Made, wal: &Wal) -> bool {
    let (mut next, last) = (u64::from(wal.first_lsn()), u64::from(wal.last_lsn()));
    for record in wal.iter() {
        match record {
            Ok(record) => {
                assert_eq!(u64::from(record.lsn()), next, "LSNs are dense");
                let given = &made.records[usize::try_from(next - 1).expect("few records")];
                assert!(record.payload() == given, "record {next} is another record");
            }
            Err(Error::Corrupt { .. }) => return false,
            Err(error) => panic!("record {next}: {error}"),
        }
        next += 1;
    }
    assert_eq!(next, last + 1, "the iterator returns every record");
    true
}
