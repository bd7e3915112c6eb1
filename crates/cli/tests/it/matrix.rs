//! Every command on a log in every state: exit code and what is said.

use std::path::Path;

use seawall::Wal;

use crate::logs::{self, contents, own_mounts, payload, segment};
use crate::run::{ENDED, Ran, Scratch, watchdog};

/// The commands, as they stand before and after the directory.
const COMMANDS: [(&str, &str); 17] = [
    ("stat", ""),
    ("stat", "--json"),
    ("check", ""),
    ("check", "--json"),
    ("dump", ""),
    ("dump", "--raw"),
    ("dump", "--frames"),
    ("dump", "--json --reverse"),
    ("tail", "-n 3"),
    ("append", "--kind 7"),
    ("salvage", "--to out"),
    ("salvage", "--dry-run --json"),
    ("snapshot", "--to out"),
    ("checkpoint", "--up-to 4 --yes"),
    ("truncate", "--after 14 --yes"),
    ("archive", "--to arch --rotate --up-to last --yes"),
    ("inspect", "--html page.html"),
];

/// Runs a command on `wal` in the scratch directory, after other `words`. `tail` has no end: it is
/// ended once it has printed the `texts`.
fn run(scratch: &Scratch, command: (&str, &str), words: &str, expected: Expected) -> Ran {
    let (verb, rest) = command;
    let (code, texts) = expected;
    let line = format!("{words} seawall {verb} wal {rest}");
    match code {
        ENDED => scratch.shell_until(&line, texts),
        _ => scratch.shell(&format!("echo appended | {line}")),
    }
}

/// The code and the texts that a command is expected to give.
type Expected = (i32, &'static [&'static str]);

fn each(make: impl Fn(&Path) + Sync, expected: impl Fn(&str, &str) -> Expected + Sync) {
    watchdog(120, || {
        for command in COMMANDS {
            let scratch = Scratch::new();
            make(&scratch.path("wal"));
            let before = scratch.path("wal").exists().then(|| contents(&scratch.path("wal")));
            let (code, texts) = expected(command.0, command.1);
            let ran = run(&scratch, command, "", (code, texts));
            assert_eq!(ran.code, Some(code), "{command:?}: {ran:#?}");
            ran.expect(code, texts).expect_not(&["panicked", "RUST_BACKTRACE"]);
            let writes = matches!(command.0, "append" | "checkpoint" | "truncate" | "archive");
            if let (Some(before), false) = (before, writes) {
                let after = contents(&scratch.path("wal"));
                assert!(before == after, "{command:?} only reads, and changed the log");
            }
        }
    });
}

#[test]
fn every_command_works_on_a_sound_log() {
    each(logs::sound, |verb, rest| match (verb, rest) {
        ("stat", "") => {
            (0, &["closed", "LSN 1-16 (16 records)", "continues in wal-000004.log", "6 bytes"])
        }
        ("stat", _) => (0, &["\"closed\":true", "\"state_bytes\":6"]),
        ("check", "") => (0, &["sound: 16 records, LSN 1-16", "B/s"]),
        ("check", _) => (0, &["\"sound\":true", "\"findings\":[]"]),
        ("dump", "--frames") => (0, &["wal-000004.log", "state", "data"]),
        ("dump", _) => (0, &["record 1 xxx", "record 16 xxx"]),
        ("tail", _) => (ENDED, &["record 14 x", "record 15 x", "record 16 x"]),
        ("append", _) => (0, &["17", "durable: LSN 17 (1 record)"]),
        ("salvage", "--to out") => (0, &["LSN 1-16 (16 records)", "lost        no record"]),
        ("salvage", _) => (0, &["\"lost\":[]", "\"to\":null"]),
        ("snapshot", _) => (0, &["LSN 1-16 (16 records)", "next: seawall check out"]),
        ("checkpoint", _) => (0, &["checkpoint at LSN 4: gave up LSN 1-4 (4 records)"]),
        ("truncate", _) => (0, &["truncated after LSN 14: removed LSN 15-16 (2 records)"]),
        ("archive", _) => (0, &["archived wal-000004.log, LSN 13-16"]),
        ("inspect", _) => (0, &["wal: sound; the page is page.html"]),
        _ => unreachable!("{verb}"),
    });
}

#[test]
fn every_command_works_on_a_torn_log() {
    let make = |dir: &Path| {
        let _ = logs::torn(dir);
    };
    each(make, |verb, rest| match (verb, rest) {
        ("stat", "") => (0, &["not closed", "begins wal-000005.log", "torn write"]),
        ("stat", _) => (0, &["\"closed\":false"]),
        ("check", "") => (
            0,
            &[
                "sound: 16 records",
                "torn: a write of",
                "never acknowledged",
                "wal-000004.log, offset",
                "the next open drops it",
            ],
        ),
        ("check", _) => (0, &["\"severity\":\"torn\"", "\"sound\":true"]),
        ("dump", "--frames") => (0, &["a frame's body does not verify"]),
        ("dump", _) => (0, &["record 16 xxx"]),
        ("tail", _) => (ENDED, &["record 16 x"]),
        ("append", _) => (0, &["of a torn write dropped", "durable: LSN 17 (1 record)"]),
        ("salvage", "--to out") => (0, &["LSN 1-16 (16 records)", "no record"]),
        ("salvage", _) => (0, &["\"lost\":[]"]),
        ("snapshot", _) => (0, &["LSN 1-16 (16 records)"]),
        ("checkpoint", _) => (0, &["gave up LSN 1-4"]),
        ("truncate", _) => (0, &["removed LSN 15-16"]),
        ("archive", _) => (0, &["archived wal-000004.log"]),
        ("inspect", _) => (0, &["wal: sound; the page is page.html"]),
        _ => unreachable!("{verb}"),
    });
}

#[test]
fn every_command_says_what_is_damaged() {
    let make = |dir: &Path| drop(logs::damaged(dir));
    each(make, |verb, rest| match (verb, rest) {
        ("stat", "") => (1, &["refuses the log", "wal-000002.log, offset", "seawall check wal"]),
        ("stat", _) => (1, &["\"severity\":\"damage\""]),
        ("check", "") => (
            1,
            &[
                "lost LSN 6 (1 record)",
                "wal-000002.log, offset",
                "seawall salvage wal --to wal.salvaged",
                "cp -a wal wal.copy",
            ],
        ),
        ("check", _) => (1, &["\"lost\":[{\"first\":6,\"last\":6}]"]),
        ("dump", "--frames") => (1, &["a frame's body does not verify"]),
        ("dump", _) => (1, &["record 5 xxx", "record 7 xxx", "lost   LSN 6 (1 record)"]),
        ("tail", _) => (ENDED, &["record 16 x"]),
        // What removes records would remove the evidence too, and no program opens such a log.
        ("append" | "checkpoint" | "truncate" | "archive", _) => {
            (1, &["wal-000002.log, offset", "lost   LSN 6 (1 record)", "seawall check wal"])
        }
        ("salvage", "--to out") => {
            (1, &["LSN 1-15 (15 records)", "LSN 6 (1 record)", "LSN 7-16 is now LSN 6-15"])
        }
        ("salvage", _) => (1, &["\"lost\":[{\"first\":6,\"last\":6}]"]),
        ("snapshot", _) => (0, &["next: seawall check out"]),
        ("inspect", _) => (1, &["wal: damaged; the page is page.html"]),
        _ => unreachable!("{verb}"),
    });
}

#[test]
fn every_command_refuses_a_log_of_another_program() {
    each(logs::foreign, |_, _| {
        (2, &["this is not a seawall log", "wal-000001.log", "check the path"])
    });
}

#[test]
fn no_command_takes_an_empty_directory_for_a_log() {
    let make = |dir: &Path| std::fs::create_dir(dir).expect("it can be made");
    each(make, |verb, _| match verb {
        "append" => (0, &["durable: LSN 1 (1 record)"]),
        _ => (2, &["there is no log here", "check the path"]),
    });
}

#[test]
fn every_reading_command_works_beside_a_live_writer() {
    watchdog(120, || {
        for command in COMMANDS {
            let scratch = Scratch::new();
            let dir = scratch.path("wal");
            logs::sound(&dir);
            let wal = Wal::open(&dir).expect("it is sound");
            wal.append(payload(17)).expect("it can be appended");
            let own = std::process::id().to_string();
            let (code, texts): Expected = match command {
                ("stat", "") => (0, &["open, in process", "up to LSN 16; no sync is proven"]),
                ("stat", _) => (0, &["\"durable_lsn\":16"]),
                ("check", "") => (0, &["sound: 17 records", "has it open"]),
                ("check", _) => (0, &["\"sound\":true"]),
                ("dump", "--frames") => (0, &["wal-000004.log"]),
                ("dump", _) => (0, &["record 16 xxx"]),
                ("tail", _) => (ENDED, &["unproven  record 17 x"]),
                ("salvage", "--to out") => (2, &["open for writing", "close it there first"]),
                ("salvage", _) => (0, &["\"lost\":[]"]),
                ("snapshot", _) => (0, &["LSN 1-16", "not in the copy: LSN 17 (1 record)"]),
                ("inspect", _) => (0, &["wal: sound; the page is page.html"]),
                _ => (2, &["the log is open for writing", "LOCK", "close it there first"]),
            };
            let ran = run(&scratch, command, "", (code, texts)).expect(code, texts);
            if code == 2 {
                ran.expect(2, &[&own]);
            }
            assert_eq!(wal.append("the writer goes on").expect("it does").get(), 18);
        }
    });
}

#[test]
fn a_read_only_volume_can_be_read() {
    let Some(words) = own_mounts() else { return };
    watchdog(120, || {
        for command in COMMANDS {
            let scratch = Scratch::new();
            let dir = scratch.path("wal");
            logs::sound(&dir);
            let (code, texts): Expected = match command.0 {
                "append" | "checkpoint" | "truncate" | "archive" => {
                    (2, &["Read-only file system", "mount the volume for writing"])
                }
                "tail" => (ENDED, &["record 16 x"]),
                _ => (0, &[]),
            };
            let mount = "mount --bind wal wal && mount -o remount,ro,bind wal && exec \"$@\"";
            let words = format!("{words} sh -c '{mount}' sh");
            let ran = run(&scratch, command, &words, (code, texts));
            assert_eq!(ran.code, Some(code), "{command:?}: {ran:#?}");
            ran.expect(code, texts);
        }
    });
}

/// A volume of 1 MiB that is filled to its last byte.
#[test]
fn a_full_disk_is_named_and_costs_nothing() {
    let Some(words) = own_mounts() else { return };
    watchdog(120, || {
        for command in COMMANDS {
            let scratch = Scratch::new();
            logs::sound(&scratch.path("source"));
            std::fs::create_dir(scratch.path("mount")).expect("it can be made");
            let (verb, rest) = command;
            let (code, texts): Expected = match verb {
                "append" => (
                    2,
                    &[
                        "no space is left",
                        "nothing was appended",
                        "seawall checkpoint wal --up-to LSN",
                    ],
                ),
                "salvage" if rest == "--to out" => (2, &["no space is left", "free space"]),
                "snapshot" => (2, &["no space is left", "free space"]),
                "inspect" => {
                    (2, &["cannot write it: No space left", "page.html", "remove the cause"])
                }
                // The archive is on the same volume, so its files are links.
                "archive" => (
                    2,
                    &[
                        "archived wal-000004.log",
                        "no space is left",
                        "kept   the checkpoint at LSN 16, and what was archived",
                        "the next open does the rest",
                    ],
                ),
                // These free space: the log keeps spare files for them.
                "checkpoint" => (0, &["checkpoint at LSN 4"]),
                "truncate" => (0, &["truncated after LSN 14"]),
                "tail" => (ENDED, &["record 16 x"]),
                _ => (0, &["sound"]),
            };
            let mount = "mount -t tmpfs -o size=1m none mount && cp -a source mount/wal && \
                         cd mount && cat /dev/zero > fill 2>/dev/null;";
            let input = "head -c 300000 /dev/zero | tr \"\\0\" x";
            let ran = match verb {
                "tail" => {
                    let line = format!("{words} sh -c '{mount} exec seawall tail wal {rest}'");
                    scratch.shell_until(&line, texts)
                }
                _ => scratch.shell(&format!(
                    "{words} sh -c '{mount} {input} | seawall {verb} wal {rest}; code=$?; \
                     rm fill; seawall check wal || exit 9; exit $code'"
                )),
            };
            assert_eq!(ran.code, Some(code), "{command:?}: {ran:#?}");
            ran.expect(code, texts);
        }
    });
}

#[test]
fn a_lost_segment_is_named_by_every_command_that_needs_it() {
    let make = |dir: &Path| {
        logs::sound(dir);
        std::fs::remove_file(segment(dir, 2)).expect("it is there");
    };
    each(make, |verb, rest| match (verb, rest) {
        ("check", "") => (
            1,
            &[
                "wal-000002.log",
                "the file is missing",
                "lost LSN 5-8 (4 records)",
                "put wal-000002.log back",
            ],
        ),
        ("check", _) => (1, &["{\"first\":5,\"last\":8}"]),
        ("dump", "--frames") => (1, &["wal-000003.log", "the file is missing", "wal-000002.log"]),
        ("dump", _) => (1, &["wal-000002.log", "seawall dump wal --frames"]),
        ("salvage", "--to out") => (1, &["LSN 5-8 (4 records)", "LSN 9-16 is now LSN 5-12"]),
        ("salvage", _) => (1, &["{\"first\":5,\"last\":8}"]),
        ("stat", "") => (1, &["refuses the log", "the file is missing"]),
        ("inspect", _) => (1, &["wal: damaged; the page is page.html"]),
        _ => (1, &["wal-000002.log"]),
    });
}
