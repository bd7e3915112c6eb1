//! Single rules, by example.

use super::*;

fn refused(refusal: Refusal) -> Outcome {
    Outcome::Refused(refusal)
}

fn appended(offset: u64, count: u32, timestamp_ms: u64) -> Outcome {
    Outcome::Appended { offset, count, timestamp_ms, is_duplicate: false }
}

#[test]
fn a_retry_gets_the_first_answer_also_if_nothing_else_fits() {
    // Method: repeat a conditional append after others, after a trim and after a checkpoint.
    let mut index = Index::new(SMALL);
    let first = Append { expected_offset: Some(0), ..produce("default", 10, "p", 1, 0) };
    assert_eq!(apply_next(&mut index, Action::Append(first.clone())), appended(0, 1, 10));
    apply_next(&mut index, Action::Append(append("default", 20, 5)));
    apply_next(&mut index, trim("default", 6));
    let again = Append { timestamp_ms: 90, ..first };
    let duplicate = Outcome::Appended { offset: 0, count: 1, timestamp_ms: 10, is_duplicate: true };
    for index in [&mut reload(&index), &mut index] {
        assert_eq!(apply_next(index, Action::Append(again.clone())), duplicate);
        assert_eq!(index.stream("default").map(Stream::next_offset), Some(6));
    }
}

#[test]
fn the_last_64_answers_are_kept() {
    // Method: append 100 times, then repeat each.
    let mut index = Index::new(SMALL);
    for sequence in 0..100 {
        apply_next(&mut index, Action::Append(produce("default", 1, "p", 0, sequence)));
    }
    for sequence in 0..100 {
        let outcome =
            apply_next(&mut index, Action::Append(produce("default", 1, "p", 0, sequence)));
        let duplicate =
            Outcome::Appended { offset: sequence, count: 1, timestamp_ms: 1, is_duplicate: true };
        let too_old = refused(Refusal::SequenceTooOld { oldest: 36 });
        assert_eq!(outcome, if sequence < 36 { too_old } else { duplicate });
    }
}

#[test]
fn a_refused_append_takes_no_sequence_and_no_producer() {
    // Method: let a new producer, and a new epoch, fail by the expected offset, then succeed.
    let mut index = Index::new(SMALL);
    for epoch in [0, 1] {
        let append = produce("default", 1, "p", epoch, 0);
        let wrong = Append { expected_offset: Some(99), ..append.clone() };
        let next = index.stream("default").map_or(0, Stream::next_offset);
        let expected = refused(Refusal::ExpectedOffset { next });
        let producers = index.producers();
        assert_eq!(apply_next(&mut index, Action::Append(wrong)), expected);
        assert_eq!(index.producers(), producers);
        assert_eq!(apply_next(&mut index, Action::Append(append)), appended(next, 1, 1));
    }
    let old = Action::Append(produce("default", 1, "p", 0, 1));
    assert_eq!(apply_next(&mut index, old), refused(Refusal::ProducerFenced { epoch: 1 }));
}

#[test]
fn the_last_numbers_are_refused_and_not_wrapped() {
    // Method: start from a checkpoint whose stream and producer are at the end of all numbers.
    let mut index = Index::new(SMALL);
    apply_next(&mut index, Action::Append(produce("default", 1, "p", 0, 0)));
    apply_next(&mut index, trim("default", 1));
    let mut checkpoint = index.to_checkpoint();
    let state = &mut checkpoint.streams[0];
    state.first_offset = u64::MAX - 1;
    state.next_offset = u64::MAX - 1;
    let mut index = Index::from_checkpoint(&checkpoint, SMALL).expect("it fits together");
    let two = Action::Append(append("default", 1, 2));
    assert_eq!(apply_next(&mut index, two.clone()), refused(Refusal::Exhausted));
    let one = Action::Append(append("default", 1, 1));
    assert_eq!(apply_next(&mut index, one.clone()), appended(u64::MAX - 1, 1, 1));
    assert_eq!(apply_next(&mut index, one), refused(Refusal::Exhausted));
    assert!(index.stream("default").is_some_and(|stream| stream.find(u64::MAX - 1).is_some()));

    checkpoint.streams[0].first_offset = 1;
    checkpoint.streams[0].next_offset = 1;
    checkpoint.streams[0].bytes_appended = u64::MAX;
    checkpoint.streams[0].bytes_trimmed = u64::MAX;
    let mut index = Index::from_checkpoint(&checkpoint, SMALL).expect("it fits together");
    assert_eq!(apply_next(&mut index, two), refused(Refusal::Exhausted));
    let sequence = Action::Append(produce("default", 1, "p", 1, u64::MAX));
    assert_eq!(apply_next(&mut index, sequence), refused(Refusal::Exhausted));
}

#[test]
fn a_purge_goes_to_the_last_multiple_of_1024_and_not_beyond() {
    // Method: one append per entry around the boundary. Purge up to each index in turn.
    let mut index = Index::new(SMALL);
    for raft_index in 1_000..1_100 {
        index.apply(raft_index, &command([Action::Append(append("default", 1, 1))]));
    }
    let first = |index: &Index| index.stream("default").map(Stream::first_offset);
    for (upto, expected) in [(0, 0), (1_022, 0), (1_023, 24), (1_024, 24), (u64::MAX, 24)] {
        let mut index = index.clone();
        assert_eq!(apply_next(&mut index, purge(upto)), Outcome::Purged);
        assert_eq!(first(&index), Some(expected), "upto {upto}");
    }
    assert_eq!([1_022, 1_023, 2_046, 2_047].map(purge_boundary), [0, 1_024, 1_024, 2_048]);
    // The same from an entry at the boundary, and before it.
    for (at, expected) in [(2_047, 24), (2_048, 100)] {
        let mut index = index.clone();
        index.apply(at, &command([purge(u64::MAX)]));
        assert_eq!(first(&index), Some(expected), "in entry {at}");
    }
}

#[test]
fn the_id_of_a_producer_has_at_most_128_bytes() {
    // Method: append with ids of both lengths.
    let mut index = Index::new(SMALL);
    for (length, is_allowed) in [(128, true), (129, false)] {
        let append = produce("default", 1, &"x".repeat(length), 0, 0);
        let outcome = apply_next(&mut index, Action::Append(append));
        assert_eq!(outcome != refused(Refusal::BadName), is_allowed);
    }
}

#[test]
fn names_follow_the_rules() {
    // Method: names on both sides of each rule.
    let longest = "x".repeat(128);
    for name in ["a", "Z9", "0._-", &longest] {
        assert!(is_name(name), "{name}");
    }
    let longer = "x".repeat(129);
    for name in ["", ".a", "_", "-a", "a b", "a/b", "ä", "a\0", &longer] {
        assert!(!is_name(name), "{name}");
    }
}

#[test]
fn idle_producers_make_room_oldest_first() {
    // Method: fill the index with producers in two streams, at different times, and let new ones
    // come before and after the first are idle for long enough.
    let mut index = Index::new(SMALL);
    apply_next(&mut index, create("a", StoredLimits::default()));
    for (stream, time, id) in [("a", 10, "p"), ("default", 20, "p"), ("a", 30, "q")] {
        apply_next(&mut index, Action::Append(produce(stream, time, id, 0, 0)));
    }
    let new = |time, id| Action::Append(produce("default", time, id, 0, 0));
    assert_eq!(apply_next(&mut index, new(109, "r")), refused(Refusal::ProducersMax));
    // A retry counts as a sign of life.
    apply_next(&mut index, Action::Append(produce("a", 110, "p", 0, 0)));
    assert_eq!(apply_next(&mut index, new(119, "r")), refused(Refusal::ProducersMax));
    assert_eq!(apply_next(&mut index, new(120, "r")), appended(1, 1, 120));
    let gone = Action::Append(produce("default", 121, "p", 0, 1));
    assert_eq!(apply_next(&mut index, gone), refused(Refusal::ProducerUnknown));
    let kept = Action::Append(produce("a", 121, "p", 0, 1));
    assert_eq!(apply_next(&mut index, kept), appended(2, 1, 121));
}

#[test]
#[should_panic(expected = "entries are applied once, in order")]
fn an_entry_is_not_applied_twice() {
    // Method: apply the same index again.
    let mut index = Index::new(SMALL);
    index.skip(5);
    index.skip(5);
}

#[test]
fn outcomes_and_refusals_survive_serialization() {
    // Method: to the format of the Raft engine and back.
    let outcomes = [
        appended(1, 2, 3),
        Outcome::Trimmed { first_offset: 4 },
        refused(Refusal::SequenceGap { expected: 5 }),
        refused(Refusal::UnknownOperation),
    ];
    let bytes = postcard::to_stdvec(&outcomes).expect("it fits");
    let read: [Outcome; 4] = postcard::from_bytes(&bytes).expect("it was written");
    assert_eq!(read, outcomes);
}
