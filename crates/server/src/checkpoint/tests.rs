//! Tests of the files: damage, failures of the system, and which files are kept.

use std::error::Error as _;

use tempfile::TempDir;

use super::*;
use crate::streams::{Index, IndexLimits};

fn dir() -> TempDir {
    tempfile::tempdir().expect("there is space for a test")
}

fn open(dir: &Path) -> Checkpoints {
    Checkpoints::open(dir).expect("the directory is sound")
}

/// A small checkpoint of an index that has applied this entry.
fn checkpoint(raft_index: u64) -> IndexCheckpoint {
    let mut index = Index::new(IndexLimits::default());
    index.skip(raft_index);
    let applied = b"term and index".to_vec().into();
    IndexCheckpoint { applied, ..index.to_checkpoint() }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("it can be listed");
    let name = |entry: io::Result<fs::DirEntry>| entry.expect("it can be listed").file_name();
    let mut names: Vec<String> =
        entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The index of the newest valid checkpoint, and how many were passed over.
fn newest(checkpoints: &Checkpoints, below_or_at: u64) -> (Option<u64>, usize) {
    let (found, passed_over) = checkpoints.newest_valid(below_or_at).expect("the disk is sound");
    let is_damage = |error: &CheckpointError| matches!(error, CheckpointError::Damaged { .. });
    assert!(passed_over.iter().all(is_damage));
    (found.map(|found| found.applied_index), passed_over.len())
}

#[test]
fn what_was_written_is_read() {
    // Method: write two checkpoints, one of them twice, and read them from a new handle.
    let dir = dir();
    let inner = dir.path().join("index");
    let checkpoints = open(&inner);
    assert_eq!(newest(&checkpoints, u64::MAX), (None, 0));
    for index in [7, u64::MAX, 7] {
        checkpoints.write(&checkpoint(index)).expect("there is space");
    }
    let checkpoints = open(&inner);
    assert_eq!(checkpoints.list().expect("it can be listed"), [7, u64::MAX]);
    for index in [7, u64::MAX] {
        assert_eq!(checkpoints.read(index).expect("it is sound"), checkpoint(index));
    }
    assert_eq!(newest(&checkpoints, u64::MAX), (Some(u64::MAX), 0));
    assert_eq!(newest(&checkpoints, u64::MAX - 1), (Some(7), 0));
    assert_eq!(newest(&checkpoints, 7), (Some(7), 0));
    assert_eq!(newest(&checkpoints, 6), (None, 0));
    assert_eq!(
        names(&inner),
        ["index-00000000000000000007.ckpt", "index-18446744073709551615.ckpt"]
    );
}

#[test]
fn the_header_is_as_documented() {
    // Method: take a file apart by the picture in the module's documentation.
    let bytes = encode(&checkpoint(5));
    assert_eq!(&bytes[..8], b"SWINDEX\0");
    assert_eq!(bytes[8..12], 1u32.to_le_bytes());
    assert_eq!(bytes[12..20], (bytes.len() as u64 - 24).to_le_bytes());
    let covered = [&bytes[..20], &bytes[24..]].concat();
    assert_eq!(bytes[20..24], crc32fast::hash(&covered).to_le_bytes());
    assert_eq!(bytes[24..], checkpoint(5).encode_to_vec());
}

#[test]
fn each_flipped_bit_and_each_cut_is_damage() {
    // Method: beside a sound older checkpoint, damage a newer one in every place: each bit, each
    // shorter length, and one byte more. The older one must be found each time.
    let dir = dir();
    let checkpoints = open(dir.path());
    checkpoints.write(&checkpoint(1)).expect("there is space");
    checkpoints.write(&checkpoint(2)).expect("there is space");
    let path = checkpoints.path(2, SUFFIX);
    let sound = fs::read(&path).expect("it was written");
    let flipped = (0..sound.len() * 8).map(|bit| {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    });
    let cut = (0..sound.len()).map(|length| sound[..length].to_vec());
    let longer = [&sound[..], b"x"].concat();
    let foreign = b"not a checkpoint, but a text of some other program".to_vec();
    for bytes in flipped.chain(cut).chain([longer, foreign]) {
        fs::write(&path, &bytes).expect("there is space");
        assert_eq!(newest(&checkpoints, u64::MAX), (Some(1), 1));
    }
    fs::write(&path, &sound).expect("there is space");
    assert_eq!(newest(&checkpoints, u64::MAX), (Some(2), 0));
}

#[test]
fn a_file_under_a_wrong_name_is_damage() {
    // Method: rename a sound file.
    let dir = dir();
    let checkpoints = open(dir.path());
    checkpoints.write(&checkpoint(3)).expect("there is space");
    fs::rename(checkpoints.path(3, SUFFIX), checkpoints.path(4, SUFFIX)).expect("it is there");
    assert_eq!(newest(&checkpoints, u64::MAX), (None, 1));
}

/// The bytes of a sound file of another version with this payload.
fn of_version(version: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = encode(&checkpoint(9))[..HEADER_BYTES].to_vec();
    bytes.extend_from_slice(payload);
    bytes[VERSION_AT..LENGTH_AT].copy_from_slice(&version.to_le_bytes());
    bytes[LENGTH_AT..CRC_AT].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    let crc = checksum(&bytes);
    bytes[CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn a_newer_version_is_no_damage() {
    // Method: write sound files of other versions. A newer one stops the search; version 0 does
    // not exist, and a payload that is no message is damage in this version only.
    let dir = dir();
    let checkpoints = open(dir.path());
    checkpoints.write(&checkpoint(8)).expect("there is space");
    let path = checkpoints.path(9, SUFFIX);
    fs::write(&path, of_version(2, b"\xff\xff")).expect("there is space");
    let error = checkpoints.newest_valid(u64::MAX).expect_err("it is newer");
    assert!(matches!(error, CheckpointError::NewerVersion { found: 2, supported: 1, .. }));
    let text = error.to_string();
    assert!(text.contains("index-00000000000000000009.ckpt") && text.contains("upgrade"), "{text}");
    for (version, payload) in [(0, &*checkpoint(9).encode_to_vec()), (1, b"\xff\xff")] {
        fs::write(&path, of_version(version, payload)).expect("there is space");
        assert_eq!(newest(&checkpoints, u64::MAX), (Some(8), 1));
    }
}

#[test]
fn an_error_of_the_system_is_no_damage() {
    // Method: read a checkpoint that is not there, and list a directory that is gone.
    let dir = dir();
    let inner = dir.path().join("index");
    let checkpoints = open(&inner);
    let error = checkpoints.read(1).expect_err("it is not there");
    assert!(matches!(error, CheckpointError::Io { .. }));
    assert!(error.source().is_some() && error.to_string().contains("index-0000"));
    fs::remove_dir(&inner).expect("it is empty");
    let error = checkpoints.newest_valid(1).expect_err("it is gone");
    assert!(matches!(error, CheckpointError::Io { .. }));
    let error = Checkpoints::open(&inner.join("deeper")).expect_err("its parent is gone");
    assert!(matches!(error, CheckpointError::Io { .. }));
}

#[test]
fn a_failed_write_leaves_the_older_ones() {
    // Method: take the name of the file, then the name of the temporary file, by a directory, and
    // then remove the whole directory.
    let dir = dir();
    let inner = dir.path().join("index");
    let checkpoints = open(&inner);
    checkpoints.write(&checkpoint(1)).expect("there is space");
    for suffix in [SUFFIX, LEFTOVER_SUFFIX] {
        let taken = checkpoints.path(2, suffix);
        fs::create_dir_all(taken.join("full")).expect("there is space");
        let error = checkpoints.write(&checkpoint(2)).expect_err("the name is taken");
        assert!(matches!(error, CheckpointError::Io { .. }), "{error}");
        assert_eq!(names(&inner).len(), 2, "only the directory is new");
        assert_eq!(checkpoints.list().expect("it can be listed"), [1]);
        assert_eq!(newest(&open(&inner), u64::MAX), (Some(1), 0));
        fs::remove_dir_all(&taken).expect("it is there");
    }
    fs::rename(&inner, dir.path().join("moved")).expect("it is there");
    checkpoints.write(&checkpoint(2)).expect_err("the directory is gone");
    fs::rename(dir.path().join("moved"), &inner).expect("it is there");
    assert_eq!(newest(&checkpoints, u64::MAX), (Some(1), 0));
    checkpoints.write(&checkpoint(2)).expect("it is there again");
    assert_eq!(newest(&checkpoints, u64::MAX), (Some(2), 0));
}

#[test]
fn open_removes_its_own_leftovers_and_nothing_else() {
    // Method: put files with names that are nearly ours beside a leftover.
    let dir = dir();
    let others = [
        "index-1.ckpt.tmp",
        "index-0000000000000000000x.ckpt.tmp",
        "index-00000000000000000001.tmp",
        "index-99999999999999999999.ckpt",
        "notes.ckpt.tmp",
    ];
    let leftover = "index-00000000000000000001.ckpt.tmp";
    for name in others.into_iter().chain([leftover]) {
        fs::write(dir.path().join(name), b"").expect("there is space");
    }
    let checkpoints = open(dir.path());
    let mut expected = others.map(str::to_owned);
    expected.sort();
    assert_eq!(names(dir.path()), expected);
    assert!(checkpoints.list().expect("it can be listed").is_empty());
    checkpoints.thin(u64::MAX).expect("it can be listed");
    assert_eq!(names(dir.path()), expected);
}

#[test]
fn thin_keeps_what_it_says() {
    // Method: for many lists and purge points, compare with the rule. The list is that of the
    // directory in one case, so that `thin` itself is called.
    let dir = dir();
    let checkpoints = open(dir.path());
    let all: Vec<u64> = (1..=8).map(|number| number * 10).collect();
    for index in &all {
        checkpoints.write(&checkpoint(*index)).expect("there is space");
    }
    checkpoints.thin(45).expect("it can be listed");
    assert_eq!(checkpoints.list().expect("it can be listed"), [40, 50, 60, 70, 80]);
    checkpoints.thin(80).expect("it can be listed");
    assert_eq!(checkpoints.list().expect("it can be listed"), [70, 80]);

    for count in 0..120u64 {
        let all: Vec<u64> = (0..count).map(|number| 5 + number * number).collect();
        for purged in [0, 4, 5, 6, 100, 101, 1_000, 9_999, 20_000] {
            let kept = kept_by_thin(&all, purged);
            let newest = &all[all.len().saturating_sub(2)..];
            assert!(kept.ends_with(newest));
            let at_purge = all.iter().rfind(|index| **index <= purged);
            let low = kept.iter().filter(|index| **index <= purged);
            assert!(low.clone().all(|low| Some(low) == at_purge || newest.contains(low)));
            assert!(at_purge.is_none_or(|at_purge| kept.contains(at_purge)));
            let above = all.iter().filter(|index| **index > purged).count();
            assert_eq!(kept.len() - low.count(), above.min(ABOVE_PURGE_MAX));
            assert!(kept.iter().all(|index| all.contains(index)));
        }
    }
}

#[test]
fn thin_keeps_them_apart_evenly() {
    // Method: add 2,000 checkpoints at equal distances and thin after each, with a purge point
    // that stays and one that follows. No gap is much wider than the mean one.
    for follow in [0, 600] {
        let mut kept = Vec::new();
        let mut purged = 0;
        for number in 1..=2_000u64 {
            kept.push(number * 16_384);
            purged = if follow == 0 { 0 } else { number.saturating_sub(follow) * 16_384 };
            kept = kept_by_thin(&kept, purged);
        }
        let above: Vec<u64> = kept.iter().copied().filter(|index| *index > purged).collect();
        let gaps = above.windows(2).map(|pair| pair[1] - pair[0]);
        let mean = (above[above.len() - 1] - purged) / above.len() as u64;
        assert!(gaps.max().is_some_and(|gap| gap <= 3 * mean), "{kept:?}");
        assert!(above.len() > ABOVE_PURGE_MAX / 2, "{kept:?}");
    }
}
