//! `seawalld dev`: one node or several, on loopback, in one process.

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use seawall_server::{Config, Server, ServerError};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use crate::args::DevArgs;
use crate::demo;
use crate::{Signals, raise_descriptors, reload_on_hangup};

/// Several nodes have their status pages so many ports above their own.
const PAGE_ABOVE: u16 = 100;

/// How often ports are chosen again, if another program takes one meanwhile.
const CHOICES_MAX: u32 = 10;

/// Where a node is found.
#[derive(Debug, Clone)]
struct Place {
    node_id: u64,
    addr: SocketAddr,
    page: Option<SocketAddr>,
}

/// Runs the nodes until a signal comes, one of them ends, or the demo is over. Then ends them all.
pub(crate) async fn run(args: DevArgs) -> anyhow::Result<()> {
    // First: a signal that comes meanwhile ends the nodes in order.
    let signals = Signals::new()?;
    let hangup = Signals::hangup()?;
    check(&args)?;
    raise_descriptors(&Config::default(), args.nodes.into());
    let servers = bind(&args).await?;
    let places: Vec<Place> = (1..).zip(&servers).map(|(id, server)| place(id, server)).collect();
    let reloaders = servers.iter().map(Server::reloader).collect();
    let reloading = tokio::spawn(reload_on_hangup(reloaders, hangup));
    let ready = join_all(servers.iter().map(Server::ready));
    let stop = watch::Sender::new(false);
    let mut nodes = JoinSet::new();
    for server in servers {
        let mut stopped = stop.subscribe();
        nodes.spawn(server.run(async move {
            // The sender is there as long as the nodes are waited for.
            let _stopped = stopped.wait_for(|stop| *stop).await;
        }));
    }
    let show = async {
        if !ready.await.into_iter().all(|is_ready| is_ready) {
            // The node that did not start ends, and says why.
            return std::future::pending().await;
        }
        for place in &places {
            tracing::info!("serves at {}", place.addr);
        }
        if args.demo {
            let addrs: Vec<SocketAddr> = places.iter().map(|place| place.addr).collect();
            return demo::run(&addrs).await;
        }
        // Without stdout, the nodes serve all the same.
        let _lost = introduce(&places, &args.dir);
        std::future::pending().await
    };
    let mut outcome = tokio::select! {
        () = signals.first() => Ok(()),
        shown = show => shown,
        Some(ended) = nodes.join_next() => flat(ended),
    };
    stop.send_replace(true);
    while let Some(ended) = nodes.join_next().await {
        outcome = outcome.and(flat(ended));
    }
    reloading.abort();
    outcome
}

fn flat(ended: Result<Result<(), ServerError>, JoinError>) -> anyhow::Result<()> {
    Ok(ended??)
}

fn place(node_id: u64, server: &Server) -> Place {
    Place { node_id, addr: server.addr(), page: server.metrics_addr() }
}

/// Refuses ports that there are not, and the directory of one node for several nodes, and the
/// reverse.
fn check(args: &DevArgs) -> anyhow::Result<()> {
    const FIRST_PORT_MAX: u16 = u16::MAX - PAGE_ABOVE - 5;
    let port = args.listen.port();
    anyhow::ensure!(
        args.nodes == 1 || port <= FIRST_PORT_MAX,
        "--listen: port {port} leaves no room for {} nodes: take one of at most {FIRST_PORT_MAX}",
        args.nodes
    );
    let dir = args.dir.display();
    let is_there = |dir: &Path| dir.join("node.toml").exists();
    if args.nodes == 1 {
        let has_several = is_there(&node_dir(&args.dir, 1));
        anyhow::ensure!(
            !has_several,
            "{dir}: has the data of several nodes: start them with --nodes, or use another --dir"
        );
        return Ok(());
    }
    let has_one = is_there(&args.dir);
    anyhow::ensure!(
        !has_one,
        "{dir}: has the data of one node: start it without --nodes, or use another --dir"
    );
    Ok(())
}

fn node_dir(dir: &Path, node_id: u64) -> PathBuf {
    dir.join(format!("node-{node_id}"))
}

/// Listens for each node. Nothing is on the disk before all of them can.
async fn bind(args: &DevArgs) -> anyhow::Result<Vec<Server>> {
    let is_chosen = args.nodes > 1 && args.listen.port() == 0;
    let mut choices = 0;
    loop {
        choices += 1;
        match bind_once(args).await {
            Err(ServerError::Listen { .. }) if is_chosen && choices < CHOICES_MAX => {}
            outcome => return Ok(outcome?),
        }
    }
}

async fn bind_once(args: &DevArgs) -> Result<Vec<Server>, ServerError> {
    let addrs = addrs(args)?;
    let mut servers = Vec::new();
    for (id, addr) in (1..).zip(&addrs) {
        let mut config = Config::default();
        config.dir = args.dir.clone();
        config.listen = *addr;
        config.metrics_listen = args.page_of(*addr, id);
        config.bootstrap_expect = args.nodes;
        if args.nodes > 1 {
            config.dir = node_dir(&args.dir, id);
            config.node_id = id;
            config.seeds = addrs.iter().map(SocketAddr::to_string).collect();
            // The log may name the ports of another start.
            let routes = (1..).zip(&addrs).map(|(id, addr): (u64, _)| format!("{id}={addr}"));
            config.raft.routes = routes.collect();
        }
        servers.push(Server::bind(config).await?);
    }
    Ok(servers)
}

/// Returns where each node listens. Nodes that are to find one another need ports beforehand.
fn addrs(args: &DevArgs) -> Result<Vec<SocketAddr>, ServerError> {
    let first = args.listen;
    if args.nodes == 1 {
        return Ok(vec![first]);
    }
    let nodes = 0..args.nodes;
    if first.port() != 0 {
        let ports = nodes.zip(first.port()..).map(|(_, port)| port);
        return Ok(ports.map(|port| SocketAddr::new(first.ip(), port)).collect());
    }
    let failed = |source| ServerError::Listen { addr: first, source };
    // All at once, so that all differ.
    let listeners = nodes.map(|_| TcpListener::bind(first)).collect::<io::Result<Vec<_>>>();
    let listeners = listeners.map_err(failed)?;
    listeners.iter().map(|listener| listener.local_addr().map_err(failed)).collect()
}

impl DevArgs {
    /// Returns where the status page of a node is.
    fn page_of(&self, addr: SocketAddr, node_id: u64) -> Option<SocketAddr> {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let nth = u16::try_from(node_id - 1).unwrap_or(u16::MAX);
        Some(match self.metrics_listen {
            Some(first) if first.port() == 0 => first,
            Some(first) => SocketAddr::new(first.ip(), first.port().saturating_add(nth)),
            None if self.listen.port() == 0 => SocketAddr::new(loopback, 0),
            None if self.nodes == 1 => SocketAddr::new(loopback, 7001),
            None => SocketAddr::new(loopback, addr.port().saturating_add(PAGE_ABOVE)),
        })
    }
}

fn introduce(places: &[Place], dir: &Path) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let dir = dir.display();
    let servers: Vec<String> =
        places.iter().map(|place| format!("http://{}", place.addr)).collect();
    let servers = servers.join(",");
    match places {
        [_] => writeln!(out, "seawalld serves at {servers}, with its data in {dir}")?,
        places => {
            writeln!(out, "seawalld runs {} nodes, with their data in {dir}", places.len())?;
            for place in places {
                writeln!(out, "  node {}:   http://{}", place.node_id, place.addr)?;
            }
        }
    }
    writeln!(out, "  produce:  echo hello | seawallctl --server {servers} produce")?;
    writeln!(out, "  consume:  seawallctl --server {servers} consume")?;
    if places.len() > 1 {
        writeln!(out, "  members:  seawallctl --server {servers} cluster status")?;
    }
    for page in places.iter().filter_map(|place| place.page) {
        writeln!(out, "  look:     http://{page}/")?;
    }
    match places.len() {
        1 => writeln!(out, "Ctrl-C ends it. A record is on the disk before it is acknowledged.")?,
        _ => writeln!(
            out,
            "Ctrl-C ends them. A record is on the disks of a majority before it is acknowledged."
        )?,
    }
    out.flush()
}
