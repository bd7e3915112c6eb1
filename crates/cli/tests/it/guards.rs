//! What the tool refuses, so that nothing is lost, overwritten, or claimed in error.

use std::ffi::OsString;
use std::fs;

use seawall::{Lsn, Wal};

use crate::logs::{self, contents};
use crate::run::{Scratch, watchdog};

#[test]
fn nothing_is_made_within_a_log_or_an_archive() {
    let scratch = Scratch::new();
    logs::sound(&scratch.path("wal"));
    scratch.tool(["snapshot", "wal", "--to", "copy"]).expect(0, &[]);
    let archive = ["archive", "copy", "--to", "arch", "--rotate", "--up-to", "last", "--yes"];
    scratch.tool(archive).expect(0, &[]);
    let before = contents(&scratch.path("wal"));
    for line in [
        "seawall salvage wal --to wal/sub",
        "seawall salvage wal --to wal/not-there/../sub",
        "seawall snapshot wal --to ./wal/sub/deep",
        "seawall archive wal --to wal/sub --up-to last --yes",
        "seawall restore arch --to arch/sub",
        "cd wal && seawall snapshot . --to sub",
    ] {
        let ran = scratch.shell(line);
        ran.expect(2, &["the new directory would be within", "name a directory elsewhere"]);
    }
    assert!(contents(&scratch.path("wal")) == before);
    assert!(!scratch.path("wal/sub").exists() && !scratch.path("arch/sub").exists());
    scratch.tool(["snapshot", "wal", "--to", "wal-2"]).expect(0, &[]);
}

#[test]
fn a_page_overwrites_nothing_but_a_page() {
    let scratch = Scratch::new();
    logs::sound(&scratch.path("wal"));
    fs::write(scratch.path("notes"), "text").expect("it can be written");
    for file in ["wal/CURRENT", "wal/wal-000002.log", "notes"] {
        let texts = ["is no page: it is not overwritten", file, "name another file"];
        scratch.tool(["inspect", "wal", "--html", file]).expect(2, &texts);
        let bench = ["bench", "disk", "--seconds", "600", "--report", file];
        scratch.tool(bench).expect(2, &texts);
    }
    scratch.tool(["check", "wal"]).expect(0, &["sound: 16 records"]).expect_not(&["note"]);
    // What a full disk left of a page is a page, too.
    fs::write(scratch.path("page.html"), "<!doct").expect("it can be written");
    for _ in 0..2 {
        scratch.tool(["inspect", "wal", "--html", "page.html"]).expect(0, &[]);
    }
}

#[test]
fn input_that_is_no_record_does_not_fill_the_memory() {
    // Method: with 600 MB of address space, take input that has no end.
    watchdog(120, || {
        let scratch = Scratch::new();
        let x = "x".repeat(5000);
        for (line, texts) in [
            ("seawall append wal < /dev/zero", ["record 1: the line is longer than 16.0 MiB", ""]),
            (
                "(printf '\\377\\377\\377\\377'; cat /dev/zero) | seawall append wal --raw",
                ["record 1: its length is 4294967295 bytes; at most 16777216 are allowed", ""],
            ),
            (
                &format!("yes {x} | seawall append wal --batch 4000000000"),
                ["its batch has more than 64.0 MiB", "make smaller batches, with --batch"],
            ),
            (
                "seawall append wal --json < /dev/zero",
                ["record 1: the line is longer than 97.0 MiB", ""],
            ),
        ] {
            let ran = scratch.shell(&format!("ulimit -v 600000; {line}"));
            ran.expect(2, &texts).expect(2, &["nothing was appended"]);
        }
    });
}

#[test]
fn a_large_record_can_be_loaded_if_it_is_asked_for() {
    let scratch = Scratch::new();
    let record = "head -c 20000000 /dev/zero | tr '\\0' x";
    let texts = ["the line is longer than 16.0 MiB", "nothing was appended"];
    scratch.shell(&format!("{record} | seawall append wal")).expect(2, &texts);
    let line = format!("{record} | seawall append wal --record-bytes-max 20000000");
    scratch.shell(&line).expect(0, &["durable: LSN 1 (1 record)"]);
    scratch.shell("seawall dump wal --raw | wc -c").expect(0, &["20000004"]);
}

#[test]
fn an_empty_log_has_no_last_record_to_print() {
    let scratch = Scratch::new();
    scratch.tool(["append", "wal"]).expect(0, &["nothing was appended"]);
    for arguments in [&["--from", "last"][..], &["--reverse"], &["--frames"], &["--to", "last"]] {
        let ran = scratch.tool([&["dump", "wal"], arguments].concat()).expect(0, &[]);
        assert_eq!(ran.err, "");
    }
    scratch.tool(["dump", "wal", "--from", "0"]).expect(2, &["begin at LSN 1"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_directory_whose_name_is_not_text_is_shown_in_json_and_for_a_shell() {
    let scratch = Scratch::new();
    let name: OsString = std::os::unix::ffi::OsStringExt::from_vec(b"n\xff\n".to_vec());
    let dir = scratch.root().join(&name);
    logs::damaged(&dir);
    let arguments = [OsString::from("check"), name.clone(), OsString::from("--json")];
    let checked = scratch.tool(arguments).expect(1, &[]).json();
    assert!(checked["findings"][0]["file"].as_str().expect("a path").contains("wal-000002.log"));
    let ran = scratch.tool([OsString::from("check"), name]).expect(1, &[]);
    ran.expect(1, &[r"seawall salvage $'n\xff\x0a' --to"]);
}

#[test]
fn frames_tell_damage_from_a_torn_write_and_from_a_checkpoint() {
    let scratch = Scratch::new();
    let dir = scratch.path("wal");
    logs::sound(&dir);
    scratch.tool(["checkpoint", "wal", "--up-to", "5", "--yes"]).expect(0, &[]);
    assert!(!logs::segment(&dir, 1).exists());
    let frames = ["dump", "wal", "--frames"];
    scratch.tool(frames).expect(0, &[]).expect_not(&["missing"]);
    logs::flip(&dir, 5); // At the checkpoint.
    scratch.tool(["check", "wal"]).expect(0, &["sound"]);
    scratch.tool(frames).expect(0, &["does not verify"]);
    logs::flip(&dir, 14); // In the newest segment, and synced.
    scratch.tool(frames).expect(1, &["does not verify"]).expect_not(&["missing"]);
    let ran = scratch.tool(["check", "wal"]).expect(1, &["lost LSN 14 (1 record)"]);
    ran.expect_not(&["the file is missing", "wal-000001.log"]);
    // A log that does not open: its frames are the way to look into it.
    scratch.tool(["dump", "wal"]).expect(
        1,
        &["see all of it:  seawall check wal", "seawall dump wal --frames", "seawall salvage wal"],
    );
}

#[test]
fn commands_that_change_a_log_print_json() {
    let scratch = Scratch::new();
    logs::sound(&scratch.path("wal"));
    let json = |line: &str| scratch.shell(&format!("seawall {line} --json")).expect(0, &[]).json();
    let wanted = serde_json::json!({ "last": 14, "removed": { "first": 15, "last": 16 } });
    assert_eq!(json("truncate wal --after 14 --yes"), wanted);
    let wanted = serde_json::json!({ "last": 14, "removed": null });
    assert_eq!(json("truncate wal --after 14 --yes"), wanted);
    let archived = json("archive wal --to arch --up-to 8 --yes");
    assert_eq!(archived["checkpoint"], 8);
    assert_eq!(archived["archived"][1]["file"], "wal-000002.log");
    assert_eq!(archived["archived"][1]["records"], serde_json::json!({ "first": 5, "last": 8 }));
    assert_eq!(archived["refused"], serde_json::Value::Null);
    let made = json("checkpoint wal --up-to 12 --yes");
    let wanted = serde_json::json!({
        "checkpoint": 12, "given_up": { "first": 9, "last": 12 }, "unarchived_segments": 0,
    });
    assert_eq!(made, wanted);
    assert_eq!(json("checkpoint wal --up-to 3 --yes")["given_up"], serde_json::Value::Null);
    let restored = json("restore arch --to back");
    assert_eq!(restored["records"], serde_json::json!({ "first": 1, "last": 8 }));
    assert_eq!(Wal::open(scratch.path("back")).expect("a log").last_lsn(), Lsn::new(8));
}

#[test]
fn many_damaged_files_are_all_named() {
    let scratch = Scratch::new();
    let dir = scratch.path("wal");
    let wal = seawall::Options::new().segment_bytes(logs::SEGMENT_BYTES).open(&dir);
    let wal = wal.expect("a new log");
    for lsn in 1..=48 {
        wal.append(logs::payload(lsn)).expect("it can be appended");
        if lsn % 4 == 0 {
            wal.rotate().expect("a segment can be made");
        }
    }
    wal.close().expect("it can be closed");
    for segment in 0..12 {
        logs::flip(&dir, segment * 4 + 2);
    }
    let ran = scratch.tool(["check", "wal"]).expect(1, &["put wal-000007.log back"]);
    ran.expect(
        1,
        &[
            "do the same for the other files:  seawall check wal --json",
            "otherwise rescue the rest:  seawall salvage wal --to wal.salvaged",
        ],
    );
}
