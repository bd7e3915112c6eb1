//! What a group has acknowledged and no longer has after all of its nodes have lost their power.
//!
//! Each node has an ext4 of its own in an image file. A cut kills all nodes, copies the images, and
//! mounts the copies: what the nodes' file systems had not written to their disks is gone. The
//! disks themselves forget nothing, as if they had protection against the loss of power.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use seawall_client::Client;
use tokio::task::JoinSet;

use crate::daemon::Group;
use crate::nats::{Nats, Sync};
use crate::{Args, Result};

const CLIENTS: usize = 8;
const IMAGE_BYTES: u64 = 1 << 30;

/// What was acknowledged: the number that the record got, and the record.
pub(crate) type Acknowledged = Vec<(u64, Vec<u8>)>;

/// A record that no other client makes.
pub(crate) fn record(client: usize, count: usize) -> Vec<u8> {
    let mut bytes = format!("client {client}, record {count} ").into_bytes();
    bytes.resize(256, b'.');
    bytes
}

/// The disks of three nodes, mounted. Unmounted when dropped.
struct Disks {
    dir: PathBuf,
}

impl Disks {
    fn make(dir: &Path) -> Result<Disks> {
        let disks = Disks { dir: dir.to_owned() };
        for place in 0..3 {
            fs::create_dir_all(disks.point(place))?;
            File::create(disks.image(place))?.set_len(IMAGE_BYTES)?;
            command("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &disks.image(place)])?;
        }
        disks.mount()?;
        Ok(disks)
    }

    fn point(&self, place: usize) -> PathBuf {
        self.dir.join(format!("disk-{place}"))
    }

    fn image(&self, place: usize) -> PathBuf {
        self.dir.join(format!("image-{place}"))
    }

    /// Where the nodes keep their data.
    fn data(&self) -> Vec<PathBuf> {
        (0..3).map(|place| self.point(place).join("data")).collect()
    }

    fn mount(&self) -> Result<()> {
        for place in 0..3 {
            let image = self.image(place);
            command("mount", &["-o".as_ref(), "loop".as_ref(), &image, &self.point(place)])?;
        }
        Ok(())
    }

    /// Loses what is not on the disks. No process may use them.
    fn cut_power(&self) -> Result<()> {
        for place in 0..3 {
            let image = self.image(place);
            let copy = image.with_extension("cut");
            command("cp", &["--sparse=always".as_ref(), &image, &copy])?;
        }
        for place in 0..3 {
            command("umount", &[&self.point(place)])?;
            let image = self.image(place);
            fs::rename(image.with_extension("cut"), image)?;
        }
        self.mount()
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for place in 0..3 {
            let _gone = command("umount", &["-l".as_ref(), &self.point(place)]);
        }
        let _removed = fs::remove_dir_all(&self.dir);
    }
}

fn command(program: &str, arguments: &[&Path]) -> Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} {arguments:?}: {error}");
    Ok(())
}

pub(crate) async fn measure(args: &Args) -> Result<()> {
    println!("| system | acknowledged | of these gone after a power cut of all nodes |");
    println!("|---|---|---|");
    let time = Duration::from_secs(args.seconds);
    for _ in 0..args.rounds {
        let (acknowledged, lost) = ours(args, time).await?;
        println!("| seawalld | {acknowledged} | {lost} |");
        let Some(program) = &args.nats else { continue };
        for sync in [Sync::Always, Sync::Default] {
            let (acknowledged, lost) = nats(args, program, sync, time).await?;
            println!("| JetStream, {sync:?} | {acknowledged} | {lost} |");
        }
    }
    Ok(())
}

/// What all writers together were told. They may be stopped at any time.
pub(crate) type Told = Arc<Mutex<Acknowledged>>;

fn take(told: &Told) -> Acknowledged {
    std::mem::take(&mut told.lock().unwrap_or_else(PoisonError::into_inner))
}

pub(crate) fn tell(told: &Told, number: u64, record: Vec<u8>) {
    told.lock().unwrap_or_else(PoisonError::into_inner).push((number, record));
}

/// Returns how many records were acknowledged until the cut, and how many of them are gone.
async fn ours(args: &Args, time: Duration) -> Result<(usize, usize)> {
    let disks = Disks::make(&args.dir.join("figures-disks"))?;
    let mut group = Group::start_in(disks.data()).await?;
    let addrs: Vec<String> = (1..=3).map(|id| group.addr(id).to_owned()).collect();
    let client = Client::connect(addrs.clone())?;
    let told = Told::default();
    let mut writers = JoinSet::new();
    for own in 0..CLIENTS {
        writers.spawn(produce(client.clone(), own, told.clone()));
    }
    tokio::time::sleep(time).await;
    group.nodes.clear(); // Killed, while the writers go on.
    writers.shutdown().await;
    let acknowledged = take(&told);
    disks.cut_power()?;
    group.start_all().await?;
    let mut reader = Client::connect(addrs)?.consumer("").until_now().open().await?;
    let mut found = Vec::new();
    while let Some(record) = reader.next().await? {
        found.push(record.value);
    }
    let lost = acknowledged.iter().filter(|(offset, record)| {
        let place = usize::try_from(*offset).unwrap_or(usize::MAX);
        found.get(place).is_none_or(|found| found != record)
    });
    let lost = lost.count();
    drop(group);
    Ok((acknowledged.len(), lost))
}

async fn produce(client: Client, own: usize, told: Told) -> Result<()> {
    for count in 0.. {
        let record = record(own, count);
        let offset = client.produce("", record.clone()).await?.offset;
        tell(&told, offset, record);
    }
    Ok(())
}

async fn nats(args: &Args, program: &Path, sync: Sync, time: Duration) -> Result<(usize, usize)> {
    let disks = Disks::make(&args.dir.join("figures-disks"))?;
    let mut nats = Nats::start(program, disks.data(), sync).await?;
    let leader = nats.leader().await?;
    let told = Told::default();
    let mut writers = JoinSet::new();
    for own in 0..CLIENTS {
        writers.spawn(crate::nats::write(leader.clone(), own, told.clone()));
    }
    tokio::time::sleep(time).await;
    nats.kill();
    writers.shutdown().await;
    let acknowledged = take(&told);
    disks.cut_power()?;
    nats.run()?;
    let lost = nats.count_lost(&acknowledged).await?;
    drop(nats);
    Ok((acknowledged.len(), lost))
}
