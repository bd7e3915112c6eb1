//! What each command does to a log, and what it prints.

use std::fs;

use seawall::{Entry, Lsn, Wal};

use crate::logs::{self, payload};
use crate::run::{Scratch, watchdog};

fn collect(dir: &std::path::Path) -> Vec<(u64, u16, Vec<u8>, Vec<u8>)> {
    let wal = Wal::open(dir).expect("it can be opened");
    let record = |record: seawall::Record| {
        let meta = record.meta().to_vec();
        (record.lsn().get(), record.kind(), meta, record.payload().to_vec())
    };
    wal.iter().map(|item| record(item.expect("it can be read"))).collect()
}

#[test]
fn what_is_dumped_can_be_appended_again() {
    // Method: records with every byte, meta and kinds, through JSON and through raw bytes.
    watchdog(60, || {
        let scratch = Scratch::new();
        let wal = Wal::open(scratch.path("wal")).expect("a new log");
        let all: Vec<u8> = (0..=255).collect();
        for payload in [&b""[..], b"text", b"two\nlines", &all] {
            let entry = Entry::new(payload.to_vec()).with_kind(7).with_meta(&all[..40]);
            wal.append(entry).expect("it can be appended");
        }
        wal.append(Entry::new("umlaut ü").with_meta("meta")).expect("it can be appended");
        wal.close().expect("it can be closed");
        let wanted = collect(&scratch.path("wal"));
        let through = |form: &str, to: &str| {
            let line = format!("seawall dump wal --{form} | seawall append {to} --{form}");
            scratch.shell(&line).expect(0, &[]);
            collect(&scratch.path(to))
        };
        assert_eq!(through("json", "json"), wanted);
        let raw = through("raw", "raw").into_iter().map(|(lsn, .., payload)| (lsn, payload));
        let wanted = wanted.into_iter().map(|(lsn, .., payload)| (lsn, payload));
        assert_eq!(raw.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
    });
}

#[test]
fn dump_selects_by_lsn_and_kind_and_prints_backwards() {
    let scratch = Scratch::new();
    logs::sound(&scratch.path("wal"));
    let lsns = |arguments: &str| -> Vec<u64> {
        let line = format!("seawall dump wal --json {arguments}");
        let ran = scratch.shell(&line).expect(0, &[]);
        let lsn = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).expect("it is JSON");
            value["lsn"].as_u64().expect("a number")
        };
        ran.out.lines().map(lsn).collect()
    };
    assert_eq!(lsns("--from 7 --to 10"), [7, 8, 9, 10]);
    assert_eq!(lsns("--from 7 --to 10 --reverse"), [10, 9, 8, 7]);
    assert_eq!(lsns("--from last"), [16]);
    assert_eq!(lsns("--kind 2 --to 8"), [2, 5, 8]);
    assert_eq!(lsns("--from 17"), [0; 0]);
    let ran = scratch.tool(["dump", "wal", "--text", "--to", "1"]).expect(0, &[]);
    assert_eq!(ran.out, format!("{}\n", payload(1)));
    scratch.tool(["dump", "wal", "--hex", "--to", "1"]).expect(
        0,
        &[
            "LSN 1, kind 1, 609 bytes",
            "00000000  72 65 63 6f 72 64 20 31  20 78",
            "|record 1 xxxxxxx|",
        ],
    );
}

#[test]
fn dump_prints_what_is_left_of_a_damaged_log_in_both_directions() {
    let scratch = Scratch::new();
    let dir = scratch.path("wal");
    logs::sound(&dir);
    logs::flip(&dir, 6);
    logs::flip(&dir, 7);
    logs::flip(&dir, 11);
    let kept: Vec<String> = (1..=16).filter(|lsn| ![6, 7, 11].contains(lsn)).map(payload).collect();
    let ran = scratch.tool(["dump", "wal", "--text"]).expect(1, &["seawall check wal"]);
    assert_eq!(ran.out.lines().collect::<Vec<_>>(), kept);
    let ran = scratch.tool(["dump", "wal", "--text", "--reverse"]).expect(1, &[]);
    assert_eq!(ran.out.lines().rev().collect::<Vec<_>>(), kept);
}

#[test]
fn check_lists_all_damage_and_not_only_the_first() {
    let scratch = Scratch::new();
    let dir = scratch.path("wal");
    logs::sound(&dir);
    let offsets: Vec<u64> = [2, 6, 7, 15].map(|lsn| logs::flip(&dir, lsn).1).into();
    fs::write(dir.join("CURRENT"), "not a mark").expect("it can be written");
    let ran = scratch.tool(["check", "wal", "--json"]).expect(1, &[]);
    let checked = ran.json();
    let findings = checked["findings"].as_array().expect("a list");
    let damage: Vec<(u64, u64)> = findings
        .iter()
        .filter(|finding| finding["severity"] == "damage")
        .map(|finding| {
            let lost = &finding["lost"];
            assert_eq!(lost.as_array().map(Vec::len), Some(1), "{finding}");
            assert!(!finding["remedy"].as_array().expect("a list").is_empty(), "{finding}");
            let offset = finding["offset"].as_u64().expect("a number");
            (offset, lost[0]["first"].as_u64().expect("a number"))
        })
        .collect();
    let wanted: Vec<(u64, u64)> = offsets.into_iter().zip([2, 6, 7, 15]).collect();
    assert_eq!(damage, wanted, "{checked:#}");
    let notes = findings.iter().filter(|finding| finding["severity"] == "note");
    assert!(notes.filter(|note| note["file"].to_string().contains("CURRENT")).count() == 1);
    let lost = serde_json::json!([
        { "first": 2, "last": 2 }, { "first": 6, "last": 7 }, { "first": 15, "last": 15 },
    ]);
    assert_eq!(checked["lost"], lost);
}

#[test]
fn a_salvage_is_what_the_dry_run_said() {
    let scratch = Scratch::new();
    logs::damaged(&scratch.path("wal"));
    let forecast = scratch.tool(["salvage", "wal", "--dry-run", "--json"]).expect(1, &[]).json();
    assert!(!scratch.path("new").exists());
    let made = scratch.tool(["salvage", "wal", "--to", "new", "--json"]).expect(1, &[]).json();
    for part in ["records", "lost", "moved", "checkpoint", "state", "notes"] {
        assert_eq!(forecast[part], made[part], "{part}");
    }
    scratch.tool(["check", "new"]).expect(0, &["sound: 15 records, LSN 1-15"]);
    let records = collect(&scratch.path("new"));
    let wanted = (1..=16).filter(|lsn| *lsn != 6).map(|lsn| payload(lsn).into_bytes());
    assert!(records.into_iter().map(|(.., payload)| payload).eq(wanted));
    // A second salvage to the same place is refused, and the first one stays.
    scratch.tool(["salvage", "wal", "--to", "new"]).expect(2, &["there is a log already"]);
    scratch.tool(["check", "new"]).expect(0, &[]);
}

#[test]
fn append_makes_batches_and_says_what_is_wrong_with_its_input() {
    let scratch = Scratch::new();
    let ran = scratch.tool_with(["append", "wal", "--batch", "2"], b"a\nb\nc\nd\ne").expect(0, &[]);
    assert_eq!(ran.out, "1-2\n3-4\n5\n");
    assert_eq!(ran.err, "durable: LSN 1-5 (5 records)\n");
    let bad = b"{\"payload\":\"x\"}\n{\"payload\":7}\n";
    let ran = scratch.tool_with(["append", "wal", "--json"], bad);
    ran.expect(
        2,
        &["the standard input, record 2: invalid type", "kept   durable: LSN 6 (1 record)"],
    );
    let ran = scratch.tool_with(["append", "wal", "--raw"], &[5, 0, 0, 0, b'x']);
    ran.expect(2, &["record 1: the input ends after 1 of 5 bytes", "nothing was appended"]);
    fs::write(scratch.path("lines"), "f\ng\n").expect("it can be written");
    scratch.tool(["append", "wal", "lines", "lines"]).expect(0, &["durable: LSN 7-10"]);
    scratch.tool(["append", "wal", "nowhere"]).expect(2, &["nowhere", "cannot open it"]);
    let texts: Vec<Vec<u8>> = collect(&scratch.path("wal")).into_iter().map(|r| r.3).collect();
    assert_eq!(texts.concat(), b"abcdexfgfg");
}

#[test]
fn compressed_records_are_read() {
    let scratch = Scratch::new();
    let lines = "a line that repeats itself\n".repeat(3000);
    for codec in ["lz4", "zstd"] {
        let arguments = ["append", codec, "--codec", codec];
        scratch.tool_with(arguments, lines.as_bytes()).expect(0, &[]);
        let ran = scratch.tool(["dump", codec, "--text"]).expect(0, &[]);
        assert_eq!(ran.out, lines);
        scratch.tool(["stat", codec]).expect(0, &[&format!(" {codec} ")]);
        scratch.tool(["check", codec]).expect(0, &["sound: 3,000 records"]);
    }
}

#[test]
fn no_command_removes_what_waits_for_an_archive() {
    // Method: an archive that refuses leaves a backlog; an open without it would remove it.
    let scratch = Scratch::new();
    logs::sound(&scratch.path("wal"));
    fs::create_dir(scratch.path("arch")).expect("it can be made");
    fs::write(scratch.path("arch/wal-000001.log"), "other").expect("it can be written");
    fs::write(scratch.path("arch/wal-000001.seal"), "other").expect("it can be written");
    let line = "seawall archive wal --to arch --up-to 8 --yes";
    scratch
        .shell(line)
        .expect(2, &["the archive refused wal-000001.log", "nothing is lost: 2 segments"]);
    for line in [
        "echo x | seawall append wal",
        "seawall checkpoint wal --up-to 9 --yes",
        "seawall truncate wal --after 12 --yes",
    ] {
        scratch.shell(line).expect(
            2,
            &["2 segments", "may still wait for an archive", "--archive", "--remove-retired"],
        );
    }
    assert!(logs::segment(&scratch.path("wal"), 1).exists());
    scratch.shell("rm arch/*").expect(0, &[]);
    scratch.shell("echo x | seawall append wal --archive arch").expect(0, &["durable: LSN 17"]);
    let archived = "seawall archive wal --to arch --yes";
    scratch
        .shell(archived)
        .expect(0, &["archived wal-000001.log, LSN 1-4", "archived wal-000002.log, LSN 5-8"]);
    scratch
        .shell("seawall restore arch --to back")
        .expect(0, &["restored 2 segments into back: LSN 1-8"]);
    scratch.shell("seawall check back").expect(0, &["sound: 8 records, LSN 1-8"]);
    assert!(!logs::segment(&scratch.path("wal"), 1).exists());
}

#[test]
fn an_lsn_outside_the_log_is_refused_with_the_right_one() {
    let scratch = Scratch::new();
    logs::sound(&scratch.path("wal"));
    let line = "seawall checkpoint wal --up-to 99 --yes";
    scratch.shell(line).expect(2, &["LSN 99 is out of range; nothing was changed", "from 0 to 16"]);
    scratch.shell("seawall truncate wal --after 99 --yes").expect(2, &["use an LSN from 0 to 16"]);
    scratch.shell("seawall checkpoint wal --up-to 4 --yes").expect(0, &[]);
    scratch.shell("seawall truncate wal --after 3 --yes").expect(2, &["use an LSN from 4 to 16"]);
    scratch
        .shell("seawall dump wal --from 2")
        .expect(2, &["LSN 2 is at or below", "begin at LSN 5"]);
    scratch.shell("seawall dump wal --from x").expect(2, &["give a number, or `last`"]);
    assert_eq!(Wal::open(scratch.path("wal")).expect("it is sound").last_lsn(), Lsn::new(16));
}

#[test]
fn nothing_is_changed_without_a_confirmation() {
    let scratch = Scratch::new();
    logs::sound(&scratch.path("wal"));
    let before = logs::contents(&scratch.path("wal"));
    for line in [
        "seawall checkpoint wal --up-to 8",
        "seawall truncate wal --after 8",
        "seawall archive wal --to arch --up-to 8",
    ] {
        scratch.shell(line).expect(2, &["not done without a confirmation", "add --yes"]);
    }
    assert!(logs::contents(&scratch.path("wal")) == before);
    assert!(!scratch.path("arch").exists());
}

#[test]
fn tail_follows_a_writer_across_segments_a_checkpoint_and_a_truncation() {
    watchdog(60, || {
        let scratch = Scratch::new();
        let dir = scratch.path("wal");
        let wal = Wal::open(&dir).expect("a new log");
        for number in 1..=3 {
            wal.append(format!("early {number}")).expect("it can be appended");
        }
        let mut command = std::process::Command::new(crate::run::TOOL);
        command.args(["tail", "-n", "2", "--json"]).arg(&dir);
        command.stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("it can be started");
        let stdout = child.stdout.take().expect("it is piped");
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stdout));
        let mut next = || -> serde_json::Value {
            let line = lines.next().expect("it has no end").expect("it can be read");
            serde_json::from_str(&line).expect("it is JSON")
        };
        assert_eq!(next()["payload"], "early 2");
        let unproven = next();
        assert_eq!((&unproven["payload"], &unproven["proven"]), (&"early 3".into(), &false.into()));
        wal.rotate().expect("a segment can be made");
        assert_eq!(next()["proven_up_to"], 3);
        wal.append("late 4").expect("it can be appended");
        assert_eq!(next()["payload"], "late 4");
        wal.truncate_after(Lsn::new(2)).expect("it can be truncated");
        let mut seen = next();
        if seen.get("proven_up_to").is_some() {
            seen = next();
        }
        assert_eq!(seen["truncated_after"], 2);
        wal.append("other 3").expect("it can be appended");
        assert_eq!(next()["payload"], "other 3");
        child.kill().expect("an own program can be ended");
        child.wait().expect("it has ended");
    });
}

#[test]
fn a_reader_that_has_enough_ends_the_tool_quietly() {
    let scratch = Scratch::new();
    let lines = "a line\n".repeat(200_000);
    scratch.tool_with(["append", "wal"], lines.as_bytes()).expect(0, &[]);
    for command in ["dump wal", "dump wal --raw", "dump wal --json", "dump wal --frames"] {
        let line = format!("(seawall {command}; echo code $? >&2) | head -c 20 > /dev/null");
        let ran = scratch.shell(&line).expect(0, &[]);
        assert_eq!(ran.err, "code 0\n", "{command}");
    }
}

#[test]
fn the_version_names_the_formats() {
    let scratch = Scratch::new();
    scratch.tool(["--version"]).expect(0, &["seawall 0.1.0 (reads format version 1)"]);
    for shell in ["bash", "zsh", "fish"] {
        scratch.tool(["completions", shell]).expect(0, &["salvage", "checkpoint"]);
    }
    scratch.tool(["stat"]).expect(2, &["Usage"]);
}

#[test]
fn colour_is_off_in_pipes_and_on_if_asked_for() {
    let scratch = Scratch::new();
    logs::damaged(&scratch.path("wal"));
    let escape = "\u{1b}[";
    scratch.tool(["check", "wal"]).expect(1, &[]).expect_not(&[escape]);
    scratch.tool(["check", "wal", "--color", "always"]).expect(1, &[escape]);
}
