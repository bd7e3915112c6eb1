//! Runs the commands, shows their progress, and prints their results.

use std::io::{self, Write};
use std::num::NonZero;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use seawall_crash::classify;
use seawall_crash::exhaustive::{self, Bound};
use seawall_crash::random;
use seawall_crash::{Failure, Stop};
use seawall_testkit::Kind;

use crate::arguments::{Classify, Common, Exhaustive, Random};

/// Whether no promise was broken.
pub(crate) type Outcome = io::Result<bool>;

pub(crate) fn random(args: &Random) -> Outcome {
    let share = args.part;
    let bar = bar(share.images(args.images), "images");
    let start = Instant::now();
    let stop = if args.stop_at_first { Stop::AtFirst } else { Stop::Never };
    let images = args.images;
    let seed = args.common.seed;
    let report = random::run(images, seed, share, threads(&args.common), stop, |images| {
        bar.set_position(images);
    });
    bar.finish_and_clear();
    let judged = report.tally.images;
    let histories = report.histories;
    if args.common.json {
        let counts =
            counts(&report.failures, |kind, count| format!("\"{}\":{count}", kind.name()), ",");
        say(&format!(
            "{{\"images\":{judged},\"histories\":{histories},\"seed\":{seed},\"part\":\"{share}\",{counts}}}"
        ))?;
    } else {
        show(&report.failures)?;
        let counts =
            counts(&report.failures, |kind, count| format!("{}={count}", kind.name()), " ");
        let seconds = start.elapsed().as_secs().max(1);
        let rate = judged / seconds;
        say(&format!(
            "images={judged} seed={seed} part={share} {counts} histories={histories} seconds={seconds} images_per_second={rate}"
        ))?;
    }
    Ok(report.failures.is_empty())
}

pub(crate) fn exhaustive(args: &Exhaustive) -> Outcome {
    let bound = Bound {
        operations: args.operations,
        operations_min: args.operations_min,
        depth: args.depth,
        states: args.states.into(),
        samples: args.samples,
        workloads_max: args.workloads,
        time_max: args.seconds.map(Duration::from_secs),
        stop: if args.stop_at_first { Stop::AtFirst } else { Stop::Never },
    };
    let start = Instant::now();
    let bar = bar(0, "workloads");
    let reached = exhaustive::run(&bound, args.common.seed, threads(&args.common), |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let tally = reached.tally;
    let whole = reached.whole_length();
    let whole = whole.map_or("none".to_owned(), |length| length.to_string());
    if args.common.json {
        let counts =
            counts(&reached.failures, |kind, count| format!("\"{}\":{count}", kind.name()), ",");
        say(&format!(
            "{{\"operations\":{},\"depth\":{},\"operations_whole\":\"{whole}\",\"workloads\":{},\
             \"workloads_left_out\":{},\"images\":{},\"images_looked_up\":{},\"points_whole\":{},\
             \"points_covered\":{},\"points_sampled\":{},{counts}}}",
            args.operations,
            args.depth,
            reached.workloads(),
            reached.left_out(),
            tally.images,
            tally.looked_up,
            tally.points_whole,
            tally.points_covered,
            tally.points_sampled,
        ))?;
    } else {
        show(&reached.failures)?;
        let depth = args.depth;
        say(&format!(
            "workloads stopped at every call, to depth {depth}; all run up to length {whole}:"
        ))?;
        for (length, (run, all)) in reached.lengths.iter().enumerate() {
            say(&format!("  of {length} operations: {run} of {all}, {} left out", all - run))?;
        }
        say(&format!(
            "points with every state judged: {}; points whose states are all among those of a later point: {}; \
             with more than {} states of the names or of a file, of which {} random ones were judged: {}",
            tally.points_whole,
            tally.points_covered,
            args.states,
            args.samples,
            tally.points_sampled
        ))?;
        let counts =
            counts(&reached.failures, |kind, count| format!("{}={count}", kind.name()), " ");
        let images = tally.images;
        let looked_up = tally.looked_up;
        let seed = args.common.seed;
        let seconds = start.elapsed().as_secs();
        say(&format!(
            "images={images} seed={seed} {counts} looked_up={looked_up} seconds={seconds}"
        ))?;
    }
    Ok(reached.failures.is_empty())
}

pub(crate) fn classify(args: &Classify) -> Outcome {
    let rows = classify::run(args.images, args.common.seed);
    if args.common.json {
        let rows = rows.iter().map(|row| {
            format!(
                "{{\"case\":\"{}\",\"images\":{},\"silent\":{},\"silent_beyond_last_group\":{},\
                 \"refused_healthy\":{},\"noticed\":{}}}",
                row.case.name(),
                row.images,
                row.silent,
                row.silent_beyond_last_group,
                row.refused_healthy,
                row.noticed
            )
        });
        say(&format!("[{}]", rows.collect::<Vec<_>>().join(",")))?;
    } else {
        say(
            "| what was done | images | silent loss | beyond the last group | healthy refused | noticed |",
        )?;
        say("|---|---|---|---|---|---|")?;
        for row in &rows {
            let share = |count: u64| format!("{count} ({:.2} %)", percent(count, row.images));
            say(&format!(
                "| {} | {} | {} | {} | {} | {} |",
                row.case.name(),
                row.images,
                share(row.silent),
                row.silent_beyond_last_group,
                share(row.refused_healthy),
                share(row.noticed)
            ))?;
        }
    }
    Ok(rows.iter().all(classify::Row::meets_goal))
}

/// Shows the progress, the rate and the remaining time on a terminal.
fn bar(length: u64, what: &str) -> ProgressBar {
    let template = format!(
        "{{elapsed_precise}} {{wide_bar}} {{pos}} of {{len}} {what}, {{per_sec}}, {{eta}} left"
    );
    let style = ProgressStyle::with_template(&template).expect("the template is sound");
    ProgressBar::new(length).with_style(style)
}

fn percent(count: u64, of: u64) -> f64 {
    let exact = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    100.0 * exact(count) / exact(of.max(1))
}

fn counts(failures: &[Failure], print: impl Fn(Kind, usize) -> String, between: &str) -> String {
    let count = |kind| failures.iter().filter(|failure| failure.violation.kind == kind).count();
    Kind::ALL.map(|kind| print(kind, count(kind))).join(between)
}

fn show(failures: &[Failure]) -> io::Result<()> {
    failures.iter().try_for_each(|failure| {
        say(&format!("history {}: {}\n{}\n", failure.index, failure.violation, failure.history))
    })
}

pub(crate) fn threads(common: &Common) -> usize {
    match common.threads {
        0 => std::thread::available_parallelism().map_or(1, NonZero::get),
        threads => threads,
    }
}

pub(crate) fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

pub(crate) fn note(line: &str) {
    // If this write fails too, only the exit code reports the error.
    drop(writeln!(io::stderr().lock(), "{line}"));
}
