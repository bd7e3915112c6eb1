//! The tasks: what a job's process does and measures.

mod append;
mod clock;
#[cfg(feature = "codecs")]
mod codecs;
mod files;
mod follow;
mod growth;
mod load;
mod memory;
mod open;
mod read;
mod submit;
mod syncs;

use std::time::Duration;

use crate::engine::Result;
use crate::job::{Job, Outcome, Task};

/// Runs the job's task in this process.
pub(crate) fn run(job: &Job) -> Result<Outcome> {
    let engine = job.engine.as_str();
    let dir = job.dir.as_path();
    if job.task.reads_a_log() {
        files::reread(dir)?;
    }
    match job.task {
        Task::Append(append) => append::run(engine, dir, &append),
        Task::Load(load) => load::run(engine, dir, &load),
        Task::Replay { replay, segment_bytes } => read::replay(engine, dir, replay, segment_bytes),
        Task::Open { verify } => open::open(dir, verify),
        Task::Abandon => open::abandon(dir),
        Task::Read { reads } => read::random(dir, reads),
        Task::BareRead { reads, frame_bytes, look } => read::bare(dir, reads, frame_bytes, look),
        Task::Checkpoint { millis, meanwhile } => {
            append::beside_checkpoint(dir, Duration::from_millis(millis), meanwhile)
        }
        Task::MemoryOpen { setup, appends } => memory::open(engine, dir, &setup, appends),
        Task::MemoryReplay => memory::replay(engine, dir),
        Task::Growth { steps, step_bytes, record_bytes } => {
            growth::append(dir, steps, step_bytes, record_bytes)
        }
        Task::Submit(submit) => submit::run(engine, dir, &submit),
        Task::Followed { followers, appends } => follow::followed(dir, followers, appends),
        Task::Beside { processes, millis } => {
            follow::beside_processes(dir, processes, Duration::from_millis(millis))
        }
        Task::Follow => follow::until_input_ends(dir),
        #[cfg(feature = "codecs")]
        Task::Compress(compress) => codecs::run(dir, &compress),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Framing, Mode, Replay, SEGMENT_BYTES, Setup};
    use crate::engines;
    use crate::engines::seawall::SEAWALL;
    use crate::job::{Amount, Append, Beside, Load, Look, Meanwhile, Submit, Verification, Way};

    /// Runs the tasks one after the other on one engine and in one directory.
    fn run_all(engine: &str, tasks: &[Task]) -> Vec<Outcome> {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::create_dir(&log).unwrap();
        let job = |task| Job { engine: engine.into(), dir: log.clone(), task };
        tasks
            .iter()
            .map(|task| run(&job(*task)).unwrap_or_else(|error| panic!("{engine}: {error}")))
            .collect()
    }

    fn append(mode: Mode, threads: usize, batch: usize, amount: Amount) -> Task {
        let setup = Setup { mode, segment_bytes: SEGMENT_BYTES };
        Task::Append(Append {
            setup,
            threads,
            record_bytes: 100,
            batch,
            amount,
            beside: Beside::NewSegments(1),
        })
    }

    fn load(framing: Framing, segment_bytes: u64) -> Task {
        Task::Load(Load {
            record_bytes: 100,
            bytes: 100_000,
            framing,
            segment_bytes,
            millis_max: 2000,
        })
    }

    #[test]
    fn every_engine_appends_as_often_as_requested() {
        // Method: run each discipline in which an engine takes part, with few calls. Include the
        // peers if they are built.
        for spec in engines::all() {
            if spec.durable.is_some() {
                let outcome =
                    &run_all(spec.name, &[append(Mode::Durable, 2, 1, Amount::Calls(40))])[0];
                assert_eq!((outcome.operations, outcome.bytes), (40, 4000), "{}", spec.name);
                let latency = outcome.latency.unwrap();
                assert!(
                    latency.p50_us > 0.0 && latency.p50_us <= latency.max_us,
                    "{}: {latency:?}",
                    spec.name
                );
                assert!(outcome.alone_seconds.unwrap() > 0.0);
            }
            if spec.batch.is_some() {
                let outcome =
                    &run_all(spec.name, &[append(Mode::Durable, 1, 5, Amount::Calls(20))])[0];
                assert_eq!((outcome.operations, outcome.bytes), (20, 10_000), "{}", spec.name);
            }
            if spec.buffered.is_some() {
                let outcome = &run_all(
                    spec.name,
                    &[append(
                        Mode::Buffered,
                        2,
                        1,
                        Amount::CallsAndSync { calls: 2000, millis_max: 60_000 },
                    )],
                )[0];
                assert_eq!((outcome.operations, outcome.bytes), (2000, 200_000), "{}", spec.name);
            }
        }
    }

    #[test]
    fn every_engine_reads_back_all_written_records() {
        let read = Task::Replay { replay: Replay::Owned, segment_bytes: SEGMENT_BYTES };
        for spec in engines::all().into_iter().filter(|spec| spec.replay.is_some()) {
            for framing in [Framing::Single, Framing::Grouped] {
                let outcomes =
                    run_all(spec.name, &[load(framing, SEGMENT_BYTES), read, Task::MemoryReplay]);
                let seen = outcomes.iter().map(|outcome| (outcome.operations, outcome.bytes));
                let written = (outcomes[0].operations, outcomes[0].bytes);
                assert!(
                    written.0 > 0 && seen.clone().all(|seen| seen == written),
                    "{}: {written:?}",
                    spec.name
                );
            }
        }
    }

    #[test]
    fn seawall_is_opened_read_and_checkpointed() {
        let tasks = [
            load(Framing::Single, 16 << 10),
            Task::Open { verify: Verification::Full },
            Task::Read { reads: 100 },
            Task::BareRead { reads: 100, frame_bytes: 152, look: Look::Checksum },
            Task::Checkpoint { millis: 50, meanwhile: Meanwhile::Nothing },
            Task::Checkpoint { millis: 50, meanwhile: Meanwhile::Checkpoint },
            Task::Open { verify: Verification::Tail },
        ];
        let outcomes = run_all(SEAWALL, &tasks);
        assert_eq!((outcomes[2].bytes, outcomes[3].bytes), (10_000, 15_200));
        let segments = [1, 4, 5, 6].map(|at| outcomes[at].segments.unwrap());
        assert!(segments[0] > 5 && segments[0] == segments[1] && segments[3] < 3, "{segments:?}");
        assert!(segments[2] >= segments[1], "nothing was checkpointed before: {segments:?}");
    }

    #[test]
    fn all_ways_of_reading_see_the_same_records() {
        let way = |replay| Task::Replay { replay, segment_bytes: SEGMENT_BYTES };
        let ways = [Replay::Owned, Replay::Lent, Replay::Backwards, Replay::Followed].map(way);
        let tasks = [&[load(Framing::Grouped, 16 << 10)], ways.as_slice()].concat();
        let outcomes = run_all(SEAWALL, &tasks);
        let seen = outcomes.iter().map(|outcome| (outcome.operations, outcome.bytes));
        assert_eq!(seen.collect::<Vec<_>>(), [(1000, 100_000); 5]);
    }

    #[test]
    fn records_stored_ahead_share_their_syncs() {
        // Method: store records in each way. A turn of 64 records needs one sync.
        let submit = |way| Task::Submit(Submit { way, record_bytes: 100, millis: 50 });
        let shared = [
            Way::Tickets { every: 64 },
            Way::Syncs { every: 64 },
            Way::Tasks { tasks: 64, threads: 2 },
        ];
        for way in shared {
            let outcome = &run_all(SEAWALL, &[submit(way)])[0];
            assert_eq!(outcome.bytes, outcome.operations * 100);
            let counters = outcome.counters.unwrap();
            assert_eq!(counters.records, outcome.operations, "{way:?}");
            assert!(counters.syncs > 0 && counters.records > 4 * counters.syncs, "{counters:?}");
        }
        for spec in engines::all().into_iter().filter(|spec| spec.buffered.is_some()) {
            let outcome = &run_all(spec.name, &[submit(Way::Syncs { every: 5 })])[0];
            assert!(outcome.operations > 0 && outcome.operations % 5 == 0, "{}", spec.name);
        }
    }

    #[test]
    fn followers_see_every_record() {
        // A follower that misses one is an error of the task.
        let tasks = [0, 3].map(|followers| Task::Followed { followers, appends: 20 });
        for (task, is_seen) in tasks.into_iter().zip([false, true]) {
            let outcome = &run_all(SEAWALL, &[task])[0];
            assert_eq!((outcome.operations, outcome.seen.is_some()), (20, is_seen));
        }
    }

    #[cfg(feature = "codecs")]
    #[test]
    fn codecs_make_text_smaller_and_noise_not() {
        use crate::job::{Codec, Compress, Content};
        let bytes_of = |codec, content| {
            let mode = Mode::Buffered;
            let compress = Compress { codec, content, mode, record_bytes: 256, bytes: 256 << 10 };
            let outcome = &run_all(SEAWALL, &[Task::Compress(compress)])[0];
            assert_eq!((outcome.operations, outcome.bytes), (1024, 256 << 10));
            assert!(outcome.replay_seconds.unwrap() > 0.0);
            outcome.log_bytes.unwrap()
        };
        for codec in [Codec::Lz4, Codec::Zstd] {
            assert!(bytes_of(codec, Content::Text) * 2 < bytes_of(Codec::None, Content::Text));
            assert!(bytes_of(codec, Content::Noise) > 256 << 10);
        }
    }

    #[test]
    fn growth_goes_step_by_step_and_keeps_the_log_small() {
        let tasks = [Task::Growth { steps: 3, step_bytes: 100 << 20, record_bytes: 64 << 10 }];
        let outcome = &run_all(SEAWALL, &tasks)[0];
        assert_eq!((outcome.step_seconds.len(), outcome.bytes), (3, 300 << 20));
        assert!(outcome.log_bytes.unwrap() < 150 << 20, "{outcome:?}");
    }

    #[test]
    fn single_frames_take_more_space_than_grouped_frames() {
        // Method: compare the sizes of the two logs. If they were equal, the two rows of a replay
        // would measure the same.
        let bytes =
            |framing| run_all(SEAWALL, &[load(framing, SEGMENT_BYTES)])[0].log_bytes.unwrap();
        assert!(bytes(Framing::Single) > bytes(Framing::Grouped) + 30_000);
    }
}
