//! Three nodes beside a plain loop and three nodes of NATS JetStream, in turns, on one disk.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::daemon::Group;
use crate::load::{Measured, Row, median, plain_loop, produce, rows};
use crate::nats::{Nats, Sync};
use crate::{Args, Result};

/// What is measured: a group of ours, and groups of NATS if there is a program.
struct Systems {
    ours: Group,
    nats: Vec<Nats>,
}

impl Systems {
    async fn start(args: &Args) -> Result<Systems> {
        let dir = args.dir.join("figures-data");
        let ours = Group::start(&dir.join("seawalld")).await?;
        let mut nats = Vec::new();
        if let Some(program) = &args.nats {
            for sync in [Sync::Always, Sync::Default] {
                let dirs = (0..3).map(|place| dir.join(format!("nats-{sync:?}-{place}"))).collect();
                nats.push(Nats::start(program, dirs, sync).await?);
            }
        }
        Ok(Systems { ours, nats })
    }

    /// Measures a row with each system. What one has left to the system to write is written before
    /// the next one begins.
    async fn measure(&self, args: &Args, row: Row) -> Result<Vec<Measured>> {
        let time = Duration::from_secs(args.seconds);
        let before = calm_loop(args, row)?;
        let leader = self.ours.leader().await?;
        let mut measured = vec![produce(&self.ours.nodes[&leader], row, time).await?];
        for nats in &self.nats {
            write_back()?;
            measured.push(nats.produce(row, time).await?);
        }
        let after = calm_loop(args, row)?;
        for result in &mut measured {
            result.of_loop = result.per_second / ((before + after) / 2.0);
        }
        Ok(measured)
    }
}

fn calm_loop(args: &Args, row: Row) -> Result<f64> {
    write_back()?;
    plain_loop(&args.dir, row.bytes, Duration::from_secs(args.seconds) / 4)
}

/// Writes all that the system still has to write.
fn write_back() -> Result<()> {
    anyhow::ensure!(Command::new("sync").status()?.success(), "sync failed");
    Ok(())
}

#[allow(clippy::print_stderr)]
pub(crate) async fn measure(args: &Args) -> Result<()> {
    let rows = rows();
    let mut rounds: Vec<Vec<Vec<Measured>>> = vec![Vec::new(); rows.len()];
    for round in 0..args.rounds {
        let systems = Systems::start(args).await?;
        for (row, results) in rows.iter().zip(&mut rounds) {
            let measured = systems.measure(args, *row).await?;
            eprintln!("round {round}: {row:?}: {measured:?}");
            results.push(measured);
        }
        drop(systems);
        fs::remove_dir_all(args.dir.join("figures-data"))?;
    }
    let names = ["seawalld", "JetStream, sync always", "JetStream, default"];
    println!(
        "| mode | clients | records a call | bytes | system | records/s | of the loop \
         | records per sync | per proposal | p50 | p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for (row, results) in rows.iter().zip(&rounds) {
        let systems = results.first().map_or(0, Vec::len);
        for (system, name) in names.iter().enumerate().take(systems) {
            print_row(row, name, results.iter().map(|round| round[system]));
        }
    }
    Ok(())
}

fn print_row(row: &Row, name: &str, rounds: impl Iterator<Item = Measured> + Clone) {
    let median = |value: fn(&Measured) -> f64| median(rounds.clone().map(|own| value(&own)));
    let or_none = |value: f64| if value == 0.0 { "–".to_owned() } else { format!("{value:.1}") };
    println!(
        "| {:?} | {} | {} | {} | {name} | {:.0} | {:.2} | {} | {} | {:.0} µs | {:.0} µs |",
        row.mode,
        row.clients,
        row.batch,
        row.bytes,
        median(|own| own.per_second),
        median(|own| own.of_loop),
        or_none(median(|own| own.per_sync)),
        or_none(median(|own| own.per_proposal)),
        median(|own| own.p50_us as f64),
        median(|own| own.p99_us as f64),
    );
}
