//! What holds after every history.

use prost::Message;
use quickcheck::{Gen, QuickCheck};
use seawall_proto::store::v1::IndexCheckpoint;

use super::history::{History, World};
use super::model::ModelStream;
use super::*;

/// Draws so many histories of up to `entries`, and checks each. Prints the seed.
fn check_histories(entries: usize, count: u64, property: fn(History)) {
    let given = std::env::var("SEAWALL_SEED").ok();
    let clock = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |now| now.subsec_nanos().into())
    };
    let seed = given.map_or_else(clock, |seed| seed.parse().expect("SEAWALL_SEED is a number"));
    eprint_seed(seed);
    let histories = Gen::from_size_and_seed(entries, seed);
    QuickCheck::new().tests(count).rng(histories).quickcheck(property);
}

#[allow(clippy::print_stderr)]
fn eprint_seed(seed: u64) {
    eprintln!("to run it again: SEAWALL_SEED={seed}");
}

#[test]
fn every_history_gives_what_the_model_gives() {
    // Method: apply a history to an index, to one that is written to a checkpoint and read again
    // after each entry, and to a model. Compare outcomes after each entry, and everything that can
    // be asked at the end and at some points before.
    check_histories(120, 400, |history: History| {
        let mut world = World::new(SMALL);
        let mut index = Index::new(SMALL);
        let mut reloaded = Index::new(SMALL);
        let half = history.entries.len() / 2;
        let mut clone = None;
        for (number, entry) in history.entries.iter().enumerate() {
            let (raft_index, expected) = world.add(entry);
            if let Some(expected) = expected {
                let command = &world.log[&raft_index];
                assert_eq!(index.apply(raft_index, command), expected);
                assert_eq!(reloaded.apply(raft_index, command), expected, "after a checkpoint");
            } else {
                index.skip(raft_index);
                reloaded.skip(raft_index);
            }
            reloaded = reload(&reloaded);
            assert_eq!(reloaded, index);
            if number % 32 == 31 {
                check_all(&world, &index);
            }
            if number == half {
                clone = Some((index.clone(), index.to_checkpoint()));
            }
        }
        check_all(&world, &index);
        check_all(&world, &reloaded);
        let bytes = index.to_checkpoint().encode_to_vec();
        assert!(bytes == reloaded.to_checkpoint().encode_to_vec(), "checkpoints are stable");
        if let Some((clone, before)) = clone {
            assert!(clone.to_checkpoint() == before, "a clone does not change");
        }
    });
}

/// Compares everything that the index can say with the model.
fn check_all(world: &World, index: &Index) {
    assert_eq!(index.last_timestamp_ms(), world.model.last_ms);
    let names = index.streams().map(|(name, _)| name);
    assert!(names.eq(world.model.streams.keys().map(|name| &**name)));
    let producers = world.model.streams.values().map(|stream| stream.producers.len());
    assert_eq!(index.producers(), producers.sum::<usize>());
    check_live_from(world, index);
    let due = index.due_trims(world.model.last_ms, u64::MAX);
    for (name, model) in &world.model.streams {
        let stream = index.stream(name).expect("the names are equal");
        assert_eq!(stream.first_offset(), model.first as u64);
        assert_eq!(stream.next_offset(), model.next());
        assert_eq!(*stream.limits(), model.limits);
        assert_eq!(stream.newest_ms(), model.records.last().map_or(0, |last| last.time_ms));
        let cursors = model.cursors.iter().map(|(name, offset)| (&**name, *offset));
        assert!(stream.cursors().eq(cursors));
        for offset in 0..model.next() + 2 {
            check_find(world, index, name, offset);
        }
        check_find_time(stream, model);
        check_due(stream, model, world.model.last_ms);
        // Histories limit the number of records only, for which trims are precise.
        let limit = Some(model.limits.records).filter(|limit| *limit > 0);
        let first = limit.map_or(0, |limit| model.next().saturating_sub(limit));
        let expected = Some(first).filter(|first| *first > stream.first_offset());
        let found = due.iter().find(|(due, _)| due == name).map(|(_, before)| *before);
        assert_eq!(found, expected, "due trim of {name}");
    }
}

fn check_live_from(world: &World, index: &Index) {
    let live = world.model.streams.values().filter_map(|stream| stream.live().first());
    let end = index.applied_index().map_or(0, |applied| applied + 1);
    let Some(first) = live.map(|record| record.raft_index).min() else {
        assert_eq!(index.live_from(), end);
        return;
    };
    // At most the length of a run is in front of it, and never a multiple of 1,024.
    let from = index.live_from();
    assert!(from <= first && first - from < 64 && from / 1_024 == first / 1_024);
}

/// Walks from the place of a record to the end of its run, over the entries of the log.
fn check_find(world: &World, index: &Index, name: &str, offset: u64) {
    let stream = index.stream(name).expect("the caller has it");
    let model = &world.model.streams[name];
    let is_live = (stream.first_offset()..stream.next_offset()).contains(&offset);
    let Some(place) = stream.find(offset) else {
        assert!(!is_live, "offset {offset} of {name} is not found");
        return;
    };
    assert!(is_live, "offset {offset} of {name} is found");
    assert!(place.offset <= offset && offset < place.end_offset);
    assert!(place.raft_index >= index.live_from());
    let first = usize::try_from(place.offset).expect("a test is small");
    let end = usize::try_from(place.end_offset).expect("a test is small");
    assert_eq!(model.records[first].raft_index, place.raft_index);
    let mut expected = model.records[first..end].iter();
    let mut from_operation = place.operation;
    for (raft_index, command) in world.log.range(place.raft_index..) {
        for (_, append) in appends(command, name, from_operation) {
            for record in &append.records {
                let Some(next) = expected.next() else { return };
                assert_eq!((&next.record, next.raft_index), (record, *raft_index));
                assert_eq!(next.timestamp_ms, append.timestamp_ms);
            }
        }
        from_operation = 0;
    }
    assert_eq!(expected.count(), 0, "the walk ends before the run");
}

fn check_find_time(stream: &Stream, model: &ModelStream) {
    let times = model.records.iter().map(|record| record.time_ms);
    for time in times.flat_map(|time| [time.saturating_sub(1), time, time + 1]).chain([u64::MAX]) {
        let first = (model.first as u64..)
            .zip(model.live())
            .find(|(_, record)| record.time_ms >= time)
            .map(|(offset, _)| offset);
        match (stream.find_time(time), first) {
            (None, None) => {}
            (Some(place), Some(first)) => {
                let found = stream.find(place.offset.max(stream.first_offset()));
                assert_eq!(found, Some(place), "it is the place of a run");
                assert!(place.offset <= first && first <= place.end_offset);
            }
            (place, first) => panic!("time {time}: {place:?}, first is {first:?}"),
        }
    }
}

/// Checks the trims by bytes and by age, and the bytes.
fn check_due(stream: &Stream, model: &ModelStream, now_ms: u64) {
    let bytes_from = |offset: u64| -> u64 {
        let from = usize::try_from(offset).expect("a test is small");
        model.records[from..].iter().map(|record| record.bytes()).sum()
    };
    let first = stream.find(stream.first_offset());
    assert_eq!(stream.bytes(), first.map_or(0, |place| bytes_from(place.offset)));
    let Some(first) = first else {
        assert_eq!(stream.due_trim(now_ms, u64::MAX), stream.first_offset());
        return;
    };
    let limited = |limits| Stream { limits, ..stream.clone() }.due_trim(now_ms, u64::MAX);
    for bytes in [1, 40, 500, 70_020, 200_000, 10_000_000] {
        let due = limited(StoredLimits { bytes, ..StoredLimits::default() });
        let place = stream.find(due).expect("the newest run stays");
        let is_last = place.end_offset == stream.next_offset();
        assert!(is_last || bytes_from(due) <= bytes, "too much stays");
        if due > stream.first_offset() {
            assert_eq!(place.offset, due, "whole runs go");
            let before = stream.find(due - 1).expect("it is retained");
            assert!(bytes_from(before.offset) > bytes, "too much goes");
        } else {
            assert_eq!(place, first);
        }
    }
    for age_ms in [1, 10, 100, 10_000, 1 << 34] {
        let due = limited(StoredLimits { age_ms, ..StoredLimits::default() });
        let is_old = |record: &model::ModelRecord| record.time_ms + age_ms < now_ms;
        let old = model.records.iter().take_while(|record| is_old(record)).count() as u64;
        let Some(place) = stream.find(due) else {
            assert_eq!((due, old), (stream.next_offset(), stream.next_offset()));
            continue;
        };
        assert!(due <= old.max(stream.first_offset()), "a young record goes");
        // The next run, if there is one, has a record that is young, or is the last with an old one.
        assert!(old <= place.end_offset, "an old run stays");
    }
}

#[test]
fn a_checkpoint_that_was_changed_is_refused_or_is_what_it_says() {
    // Method: change fields of the checkpoints of histories, some of them several times. What is
    // accepted must give the same checkpoint again, and must survive every question and operation.
    check_histories(60, 300, |history: History| {
        let mut world = World::new(SMALL);
        let mut index = Index::new(SMALL);
        for entry in &history.entries {
            let (raft_index, outcomes) = world.add(entry);
            match outcomes {
                Some(_) => drop(index.apply(raft_index, &world.log[&raft_index])),
                None => index.skip(raft_index),
            }
        }
        let checkpoint = index.to_checkpoint();
        let mut dice = seawall_dice(history.entries.len());
        for _ in 0..200 {
            let mut changed = checkpoint.clone();
            for _ in 0..=dice(3) {
                change(&mut changed, &mut dice);
            }
            use_if_accepted(&changed);
            // And on the level of bytes.
            let mut bytes = checkpoint.encode_to_vec();
            for _ in 0..=dice(3) {
                let at = dice(bytes.len());
                bytes[at] ^= 1 << dice(8);
            }
            if let Ok(changed) = IndexCheckpoint::decode(&*bytes) {
                use_if_accepted(&changed);
            }
        }
    });
}

/// Numbers below a bound, by a simple generator.
fn seawall_dice(seed: usize) -> impl FnMut(usize) -> usize {
    let mut state = seed as u64 + 1;
    move |bound| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits fit") % bound.max(1)
    }
}

fn change(checkpoint: &mut IndexCheckpoint, dice: &mut impl FnMut(usize) -> usize) {
    let number = |old: u64, dice: &mut dyn FnMut(usize) -> usize| match dice(6) {
        0 => 0,
        1 => u64::MAX,
        2 => old.wrapping_add(1),
        3 => old.wrapping_sub(1),
        4 => u64::MAX - 1,
        _ => dice(5_000) as u64,
    };
    let at = dice(checkpoint.streams.len());
    let Some(stream) = checkpoint.streams.get_mut(at) else { return };
    let run = dice(stream.runs.len());
    let producer = dice(stream.producers.len());
    let cursor = dice(stream.cursors.len());
    let field: &mut u64 = match dice(26) {
        0 => &mut checkpoint.applied_index,
        1 => &mut checkpoint.last_timestamp_ms,
        2 => &mut stream.first_offset,
        3 => &mut stream.next_offset,
        4 => &mut stream.bytes_appended,
        5 => &mut stream.bytes_trimmed,
        6 => &mut stream.open_bytes,
        7 => &mut stream.newest_ms,
        8 => return stream.must_start_run ^= true,
        9 => return stream.open_appends = u32::try_from(dice(20)).expect("it is small"),
        10 => return stream.limits = None,
        11 => return stream.name.push_str(["", " ", "x"][dice(3)]),
        12 => return checkpoint.streams.reverse(),
        13 => return drop(checkpoint.streams.remove(at)),
        14 if !stream.runs.is_empty() => {
            stream.runs.remove(run);
            return;
        }
        15 => return stream.runs.extend_from_within(run..),
        16 => return stream.producers.reverse(),
        17 => return stream.cursors.reverse(),
        18 if !stream.runs.is_empty() => {
            let run = &mut stream.runs[run];
            return run.operation = [0, 1, u32::MAX][dice(3)];
        }
        19..=21 if !stream.runs.is_empty() => {
            let run = &mut stream.runs[run];
            match dice(4) {
                0 => &mut run.first_offset,
                1 => &mut run.raft_index,
                2 => &mut run.timestamp_ms,
                _ => &mut run.bytes_before,
            }
        }
        22..=24 if !stream.producers.is_empty() => {
            let producer = &mut stream.producers[producer];
            let at = dice(producer.answers.len());
            match (dice(9), producer.answers.get_mut(at)) {
                (0, _) => &mut producer.epoch,
                (1, _) => &mut producer.next_sequence,
                (2, _) => &mut producer.last_timestamp_ms,
                (3, _) => return producer.id.push_str(&"x".repeat(dice(200))),
                (4, Some(_)) => {
                    producer.answers.remove(at);
                    return;
                }
                (5, Some(answer)) => return answer.count = [0, 1, u32::MAX][dice(3)],
                (6, Some(answer)) => &mut answer.offset,
                (7, Some(answer)) => &mut answer.timestamp_ms,
                (_, Some(answer)) => &mut answer.sequence,
                _ => return,
            }
        }
        25 if !stream.cursors.is_empty() => &mut stream.cursors[cursor].offset,
        _ => return,
    };
    *field = number(*field, dice);
}

fn use_if_accepted(checkpoint: &IndexCheckpoint) {
    let Ok(mut index) = Index::from_checkpoint(checkpoint, SMALL) else { return };
    let mut again = index.to_checkpoint();
    again.applied = checkpoint.applied.clone();
    again.membership = checkpoint.membership.clone();
    again.is_installed = checkpoint.is_installed;
    assert_eq!(again, *checkpoint, "it is what it says");
    let mut actions = vec![purge(2_000), purge(u64::MAX)];
    for state in &checkpoint.streams {
        let stream = index.stream(&state.name).expect("the checkpoint has it");
        let ends = [stream.first_offset(), stream.next_offset()];
        for offset in ends.into_iter().flat_map(|end| [end.wrapping_sub(1), end]) {
            let is_live = (ends[0]..ends[1]).contains(&offset);
            let place = stream.find(offset);
            assert_eq!(place.is_some(), is_live);
            assert!(place.is_none_or(|place| (place.offset..place.end_offset).contains(&offset)));
        }
        for time in [0, 1, stream.newest_ms(), u64::MAX] {
            stream.find_time(time);
            let limits = StoredLimits { age_ms: 1, bytes: 1, records: 1 };
            Stream { limits, ..stream.clone() }.due_trim(time, u64::MAX);
        }
        actions.push(trim(&state.name, (ends[0] / 2).saturating_add(ends[1] / 2)));
        actions.push(Action::Append(append(&state.name, 7, 2)));
        for producer in &state.producers {
            let sequence = producer.next_sequence;
            let retry = sequence.wrapping_sub(1);
            for sequence in [sequence, retry] {
                let append = produce(&state.name, 7, &producer.id, producer.epoch, sequence);
                actions.push(Action::Append(append));
            }
        }
        actions.push(Action::Append(produce(&state.name, u64::MAX, "new", 0, 0)));
        actions.push(trim(&state.name, ends[1]));
        actions.push(delete(&state.name));
    }
    index.due_trims(u64::MAX, 1);
    index.live_from();
    if let Some(next) = checkpoint.applied_index.checked_add(1) {
        index.apply(next, &command(actions));
        assert_eq!(reload(&index), index);
    }
}

#[test]
fn the_age_of_the_group_holds_for_every_stream_and_a_shorter_one_wins() {
    let append = |time_ms| Action::Append(append("default", time_ms, 1));
    let mut index = Index::new(IndexLimits::default());
    for (time_ms, raft_index) in [(1_000, 0), (2_000, 1_024), (3_000, 2_048)] {
        index.apply(raft_index, &command([append(time_ms)]));
    }
    let stream = index.stream("default").unwrap().clone();
    let due = |own_age_ms, group_age_ms| {
        let limits = StoredLimits { age_ms: own_age_ms, ..StoredLimits::default() };
        Stream { limits, ..stream.clone() }.due_trim(3_500, group_age_ms)
    };
    assert_eq!(due(0, u64::MAX), 0);
    assert_eq!(due(0, 1_400), due(1_400, u64::MAX), "the age of the group alone");
    assert_eq!(due(u64::MAX, 1_400), due(0, 1_400), "a longer one changes nothing");
    assert_eq!(due(100, 1_400), 3, "all are older");
    assert_eq!(due(0, 100), 3, "all are older");
    assert!(due(0, 1_400) > 0, "the first is too old");
}
