//! How fast the index is. Only prints.

use std::time::Instant;

use super::*;

#[test]
#[ignore = "only prints; run it in a release build, with --nocapture"]
#[allow(clippy::print_stderr)]
fn appends_per_second() {
    // Method: apply entries of 64 appends of one record each, to 10 streams, by 100 producers.
    for is_idempotent in [false, true] {
        let mut index = Index::new(IndexLimits::default());
        let names: Vec<String> = (0..10).map(|number| format!("stream-{number}")).collect();
        for name in &names {
            apply_next(&mut index, create(name, StoredLimits::default()));
        }
        let rounds = 30_000;
        let commands: Vec<Command> = (0..rounds)
            .map(|round| {
                let appends = (0..64).map(|number| {
                    // Each producer has one stream and sends one append in every other command.
                    let producer = (round % 2) * 64 + number;
                    let name = &names[usize::try_from(producer % 10).expect("it is small")];
                    let id = if is_idempotent { format!("p{producer}") } else { String::new() };
                    Action::Append(produce(name, round, &id, 0, round / 2))
                });
                command(appends)
            })
            .collect();
        let start = Instant::now();
        let mut accepted = 0;
        for command in &commands {
            let next = index.applied_index().map_or(0, |applied| applied + 1);
            let outcomes = index.apply(next, command);
            let is_new = |outcome: &&Outcome| {
                matches!(outcome, Outcome::Appended { is_duplicate: false, .. })
            };
            accepted += outcomes.iter().filter(is_new).count();
        }
        let seconds = start.elapsed().as_secs_f64();
        assert_eq!(accepted, commands.len() * 64);
        let start = Instant::now();
        let clone = index.clone();
        let clone_us = start.elapsed().as_micros();
        let start = Instant::now();
        let checkpoint = clone.to_checkpoint();
        let checkpoint_ms = start.elapsed().as_millis();
        let start = Instant::now();
        let read = Index::from_checkpoint(&checkpoint, IndexLimits::default());
        let read_ms = start.elapsed().as_millis();
        assert!(read.is_ok_and(|read| read == index));
        let runs: usize = checkpoint.streams.iter().map(|stream| stream.runs.len()).sum();
        let bytes = prost::Message::encoded_len(&checkpoint);
        eprintln!(
            "idempotent: {is_idempotent}: {:.2} M appends/s; {runs} runs; clone {clone_us} us; \
             checkpoint {checkpoint_ms} ms, {bytes} bytes; read {read_ms} ms",
            accepted as f64 / seconds / 1e6
        );
    }
}
