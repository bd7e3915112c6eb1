//! What a person reads who has a damaged log: file, offset, LSNs, remedy, and nothing else.

use crate::logs;
use crate::run::Scratch;

/// Replaces what differs from run to run.
fn steady(scratch: &Scratch, text: &str) -> String {
    let root = scratch.root().canonicalize().expect("it is there");
    let text = text.replace(&root.display().to_string(), "/data");
    let lines = text.lines().filter(|line| !line.contains("B/s"));
    lines.map(|line| format!("{}\n", line.trim_end())).collect()
}

#[test]
fn a_damaged_log() {
    let scratch = Scratch::new();
    let (_, offset) = logs::damaged(&scratch.path("wal"));
    let (_, _, bytes) = logs::frame_of(&scratch.path("wal"), 6);
    let ran = scratch.tool(["check", "wal"]).expect(1, &[]);
    let wanted = format!(
        "\
wal: damaged: lost LSN 6 (1 record); 15 records verify

damaged: a frame's body does not verify
  where  /data/wal/wal-000002.log, offset {offset} to {}
  lost   LSN 6 (1 record)

No file was changed. What to do:
  1. copy the directory as it is:  cp -a wal wal.copy
  2. put wal-000002.log back, if there is a good copy
  3. otherwise rescue the rest:  seawall salvage wal --to wal.salvaged
",
        offset + bytes
    );
    assert_eq!(steady(&scratch, &ran.out), wanted);
    assert_eq!(ran.err, "");
}

#[test]
fn a_torn_log() {
    let scratch = Scratch::new();
    let offset = logs::torn(&scratch.path("wal"));
    let ran = scratch.tool(["check", "wal"]).expect(0, &[]);
    let text = steady(&scratch, &ran.out);
    let begin = format!("  where  /data/wal/wal-000004.log, offset {offset} to ");
    assert!(text.contains(&begin), "{text}");
    assert!(text.ends_with("  next   nothing: the next open drops it\n"), "{text}");
}

#[test]
fn damage_in_the_newest_segment_and_at_its_end() {
    let scratch = Scratch::new();
    let dir = scratch.path("wal");
    logs::sound(&dir);
    let (path, offset, _) = logs::frame_of(&dir, 15);
    let file = std::fs::File::options().write(true).open(path).expect("it is there");
    file.set_len(offset).expect("it can be cut");
    scratch.tool(["check", "wal"]).expect(
        1,
        &[
            "lost LSN 15-16 (2 records)",
            &format!("wal-000004.log, offset {offset}"),
            "put wal-000004.log back",
        ],
    );
    scratch.tool(["append", "wal"]).expect(1, &["lost   LSN 15-16", "seawall check wal"]);
}

#[test]
fn a_header_and_its_copy() {
    let scratch = Scratch::new();
    let dir = scratch.path("wal");
    logs::sound(&dir);
    let file = std::fs::File::options().write(true).open(logs::segment(&dir, 2)).expect("there");
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 64], 0).expect("it can be written");
    scratch.tool(["check", "wal"]).expect(0, &["sound", "note:", "wal-000002.log, offset 0"]);
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 64], 4096).expect("it can be written");
    let texts = ["neither its header nor the copy", "wal-000002.log, offset 0", "lost   no record"];
    scratch.tool(["check", "wal"]).expect(1, &texts);
    let salvaged = ["LSN 1-16 (16 records)", "its header is lost"];
    scratch.tool(["salvage", "wal", "--to", "new"]).expect(0, &salvaged);
}

#[test]
fn files_of_two_logs() {
    let scratch = Scratch::new();
    logs::sound(&scratch.path("wal"));
    logs::sound(&scratch.path("other"));
    let from = logs::segment(&scratch.path("other"), 2);
    std::fs::copy(from, logs::segment(&scratch.path("wal"), 2)).expect("it can be copied");
    let texts = ["two logs", "move the files of one of the two logs away", "wal-000002.log"];
    scratch.tool(["check", "wal"]).expect(1, &texts);
}

#[test]
fn a_later_release() {
    let scratch = Scratch::new();
    let dir = scratch.path("wal");
    logs::sound(&dir);
    let path = logs::segment(&dir, 4);
    let mut bytes = std::fs::read(&path).expect("it is there");
    for block in [0, 4096] {
        bytes[block + 8] = 9;
        let sum = crc32(&bytes[block..block + 4092]).to_le_bytes();
        bytes[block + 4092..block + 4096].copy_from_slice(&sum);
    }
    std::fs::write(&path, bytes).expect("it can be written");
    let texts = ["needs a later tool: format version 9; this tool reads up to 1", "wal-000004.log"];
    for command in ["check", "stat", "dump", "salvage"] {
        let arguments: &[&str] = match command {
            "salvage" => &["salvage", "wal", "--dry-run"],
            other => &[other, "wal"],
        };
        scratch.tool(arguments).expect(2, &texts);
    }
}

/// CRC-32 of the IEEE polynomial, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
    let byte = |sum: u32, byte: &u8| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum));
    !bytes.iter().fold(u32::MAX, byte)
}
