//! A TCP proxy on one link. It can cut, stall, delay and lose what goes one way or both.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use seawall_testkit::Dice;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

const CHUNK_BYTES: usize = 16 << 10;
/// What a link holds: chunks that are on the way.
const CHUNKS_MAX: usize = 64;
/// What a lost packet costs: TCP sends it again after about so long.
const LOSS_MS: (u64, u64) = (200, 600);

/// What a link does with bytes that go one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Way {
    /// Passes them on.
    #[default]
    Open,
    /// Holds them until the link is repaired, as packets that are lost for long.
    Stalled,
    /// Passes them on after so many milliseconds, give or take half of it.
    Slow(u64),
    /// Loses a chunk in so many per mille. TCP repeats it later.
    Lossy(u64),
}

/// What a link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// From the one who connects to the one who listens.
    pub forth: Way,
    /// Back to the one who connected.
    pub back: Way,
    /// Whether connections break, and new ones too.
    pub wire: Wire,
}

/// Whether connections hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wire {
    /// They do.
    #[default]
    Whole,
    /// They break at once.
    Cut,
}

impl Rules {
    /// Nothing passes either way, and no connection breaks.
    pub const STALLED: Rules = Rules { forth: Way::Stalled, back: Way::Stalled, wire: Wire::Whole };
    /// All connections break.
    pub const CUT: Rules = Rules { forth: Way::Open, back: Way::Open, wire: Wire::Cut };

    /// The same both ways.
    #[must_use]
    pub fn both(way: Way) -> Rules {
        Rules { forth: way, back: way, wire: Wire::Whole }
    }
}

/// A proxy, until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    rules: watch::Sender<Rules>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of loopback, and connects to `target` for each connection.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(target: SocketAddr, seed: u64) -> io::Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let (rules, watched) = watch::channel(Rules::default());
        let dice = Arc::new(Mutex::new(Dice::new(seed)));
        let task = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                if watched.borrow().wire == Wire::Cut {
                    continue;
                }
                tokio::spawn(serve(client, target, watched.clone(), dice.clone()));
            }
        });
        Ok(Proxy { addr, rules, task })
    }

    /// Returns where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes what it does, also with bytes that are on the way.
    pub fn set(&self, rules: Rules) {
        self.rules.send_replace(rules);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.rules.send_replace(Rules::CUT);
        self.task.abort();
    }
}

type Shared = Arc<Mutex<Dice>>;

async fn serve(client: TcpStream, target: SocketAddr, rules: watch::Receiver<Rules>, dice: Shared) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _plain = client.set_nodelay(true);
    let _plain = server.set_nodelay(true);
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let mut cut = rules.clone();
    // What is left of the connection ends with the tasks that hold it.
    tokio::select! {
        _ = cut.wait_for(|rules| rules.wire == Wire::Cut) => {}
        _ = pump(client_read, server_write, rules.clone(), |rules| rules.forth, dice.clone()) => {}
        _ = pump(server_read, client_write, rules.clone(), |rules| rules.back, dice.clone()) => {}
    }
}

/// Moves bytes one way until one end is gone.
async fn pump(
    mut source: OwnedReadHalf,
    mut target: OwnedWriteHalf,
    rules: watch::Receiver<Rules>,
    way: fn(&Rules) -> Way,
    dice: Shared,
) -> io::Result<()> {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let mut own = rules.clone();
    let read = async {
        let mut bytes = vec![0; CHUNK_BYTES];
        let mut due = Instant::now();
        loop {
            let count = source.read(&mut bytes).await?;
            if count == 0 {
                return Ok(());
            }
            let held = hold(way(&rules.borrow()), &dice);
            // Later bytes never overtake.
            due = due.max(Instant::now() + held);
            if sender.send((due, bytes[..count].to_vec())).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async {
        while let Some((due, bytes)) = chunks.recv().await {
            sleep_until(due).await;
            if own.wait_for(|rules| way(rules) != Way::Stalled).await.is_err() {
                return Ok(());
            }
            target.write_all(&bytes).await?;
        }
        Ok(())
    };
    tokio::select! {
        ended = read => ended,
        ended = write => ended,
    }
}

fn hold(way: Way, dice: &Shared) -> Duration {
    let mut dice = dice.lock().unwrap_or_else(PoisonError::into_inner);
    let ms = match way {
        Way::Open | Way::Stalled => 0,
        Way::Slow(ms) => ms / 2 + dice.below(ms.max(1)),
        Way::Lossy(per_mille) if dice.below(1000) < per_mille => {
            LOSS_MS.0 + dice.below(LOSS_MS.1 - LOSS_MS.0)
        }
        Way::Lossy(_) => 0,
    };
    Duration::from_millis(ms)
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.into_split();
                    let _ended = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        addr
    }

    async fn ask(stream: &mut TcpStream) -> io::Result<u8> {
        stream.write_all(b"x").await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn a_stalled_link_holds_bytes_and_a_cut_one_breaks() {
        let proxy = Proxy::start(echo().await, 1).await.unwrap();
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(timeout(PATIENCE, ask(&mut stream)).await.unwrap().unwrap(), b'x');
        for rules in [
            Rules::STALLED,
            Rules { forth: Way::Stalled, ..Rules::default() },
            Rules { back: Way::Stalled, ..Rules::default() },
        ] {
            proxy.set(rules);
            let asked = timeout(Duration::from_millis(300), ask(&mut stream)).await;
            assert!(asked.is_err(), "{rules:?}: {asked:?}");
            proxy.set(Rules::default());
            assert_eq!(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap(), b'x');
        }
        proxy.set(Rules::CUT);
        assert!(timeout(PATIENCE, ask(&mut stream)).await.unwrap().is_err());
        let mut next = TcpStream::connect(proxy.addr()).await.unwrap();
        assert!(timeout(PATIENCE, ask(&mut next)).await.unwrap().is_err());
        proxy.set(Rules::default());
        let mut next = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(timeout(PATIENCE, ask(&mut next)).await.unwrap().unwrap(), b'x');
    }

    #[tokio::test]
    async fn a_slow_or_lossy_link_takes_its_time() {
        let proxy = Proxy::start(echo().await, 1).await.unwrap();
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        for rules in [Rules::both(Way::Slow(100)), Rules::both(Way::Lossy(1000))] {
            proxy.set(rules);
            let start = Instant::now();
            assert_eq!(timeout(PATIENCE, ask(&mut stream)).await.unwrap().unwrap(), b'x');
            assert!(start.elapsed() >= Duration::from_millis(100), "{rules:?}");
        }
    }
}
