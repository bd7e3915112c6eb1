//! `seawalld`: the server's program. Parses, starts, and maps errors to exit codes.

mod args;
mod demo;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use seawall_server::certs::write_dev_certs;
use seawall_server::{Config, ConfigError, Reloader, Server, ServerError};
use tokio::sync::oneshot;

use args::{Args, CertArgs, Command, DevArgs, LogFormat, SettingArgs};

/// How long what still runs may hold up the end of the process.
const EXIT_WAIT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without stderr, the exit code has to do.
            let _lost = writeln!(io::stderr(), "seawalld: {error}");
            let code = error.downcast_ref::<ServerError>().map_or(2, ServerError::exit_code);
            ExitCode::from(code)
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    start_log(args.log_format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        match args.command {
            Command::Dev(dev) => run_dev(dev).await,
            Command::Run(settings) => run_server(load(&settings)?, |_| Ok(())).await,
            Command::Init(settings) => init(load(&settings)?).await,
            Command::Check(settings) => check(&settings),
            Command::DevCerts(certs) => dev_certs(&certs),
        }
    });
    // A read of a large log may still run. It loses nothing when the process ends.
    runtime.shutdown_timeout(EXIT_WAIT);
    outcome
}

fn start_log(format: LogFormat) -> anyhow::Result<()> {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("SEAWALLD_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,openraft=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("the log of events cannot be started: {error}"))
}

/// Reads file, environment and flags.
fn load(settings: &SettingArgs) -> Result<Config, ServerError> {
    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        if !name.starts_with(seawall_server::config::PREFIX) {
            continue;
        }
        let value = value.into_string().map_err(|_| ConfigError::Value {
            source_name: name.clone(),
            reason: "its value is not UTF-8".to_owned(),
        })?;
        environment.push((name, value));
    }
    Ok(Config::load(settings.config.as_deref(), environment, &settings.flags())?)
}

fn check(settings: &SettingArgs) -> anyhow::Result<()> {
    let config = load(settings)?;
    Reloader::load(&config)?;
    let mut out = io::stdout().lock();
    writeln!(out, "the settings are sound: node {} of cluster {}", config.node_id, config.cluster)?;
    writeln!(out, "  data in {}, listens on {}", config.dir.display(), config.listen)?;
    Ok(())
}

/// Makes an authority, and certificates that it has signed, for a try.
fn dev_certs(args: &CertArgs) -> anyhow::Result<()> {
    let made = write_dev_certs(&args.dir, &args.names, &args.clients)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}: made. For the node:", args.dir.display())?;
    writeln!(out, "  [tls]")?;
    writeln!(out, "  cert = {:?}", made.node.cert)?;
    writeln!(out, "  key = {:?}", made.node.key)?;
    writeln!(out, "  client_ca = {:?}", made.ca)?;
    writeln!(out, "and, before [tls], policy = {:?}", made.policy)?;
    for (name, pair) in args.clients.iter().zip(&made.clients) {
        let (ca, cert, key) = (&made.ca, &pair.cert, &pair.key);
        writeln!(out, "for {name}: seawallctl --ca {ca:?} --cert {cert:?} --key {key:?} …")?;
    }
    Ok(())
}

/// Makes the group, and ends.
async fn init(mut config: Config) -> anyhow::Result<()> {
    config.bootstrap_expect = 1;
    config.listen.set_port(0);
    let dir = config.dir.clone();
    let server = Server::bind(config).await?;
    let ready = server.ready();
    let (ended, end) = oneshot::channel();
    let ready = tokio::spawn(async move {
        let is_ready = ready.await;
        let _gone = ended.send(());
        is_ready
    });
    server
        .run(async move {
            let _gone = end.await;
        })
        .await?;
    anyhow::ensure!(ready.await?, "the node did not start");
    writeln!(io::stdout(), "{}: is ready: start it with `seawalld run`", dir.display())?;
    Ok(())
}

/// Runs one node on loopback.
async fn run_dev(args: DevArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.nodes == 1,
        "--nodes {}: this version runs one node: clusters are not there yet",
        args.nodes
    );
    let mut config = Config::default();
    config.dir = args.dir.clone();
    config.listen = args.listen;
    config.bootstrap_expect = 1;
    let dir = args.dir.clone();
    if !args.demo {
        return run_server(config, move |addr| introduce(&addr, &dir)).await;
    }
    let server = Server::bind(config).await?;
    let addr = server.addr();
    let ready = server.ready();
    let (ended, end) = oneshot::channel();
    let demo = tokio::spawn(async move {
        let outcome = if ready.await { demo::run(addr).await } else { Ok(()) };
        let _gone = ended.send(());
        outcome
    });
    server
        .run(async move {
            let _gone = end.await;
        })
        .await?;
    demo.await?
}

/// Serves until a signal says otherwise. `announce` is called when the node serves.
async fn run_server(
    config: Config,
    announce: impl FnOnce(String) -> io::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    let server = Server::bind(config).await?;
    let addr = server.addr();
    let ready = server.ready();
    let announcing = tokio::spawn(async move {
        if ready.await {
            tracing::info!("serves at {addr}");
            // Without stdout, the server serves all the same.
            let _lost = announce(format!("http://{addr}"));
        }
    });
    let signals = Signals::new()?;
    let reloading = tokio::spawn(reload_on_hangup(server.reloader(), Signals::hangup()?));
    let outcome = server.run(signals.first()).await;
    announcing.abort();
    reloading.abort();
    Ok(outcome?)
}

/// Reads the files of TLS and the policy again at each SIGHUP.
async fn reload_on_hangup(reloader: Reloader, mut hangup: tokio::signal::unix::Signal) {
    while hangup.recv().await.is_some() {
        let reloader = reloader.clone();
        match tokio::task::spawn_blocking(move || reloader.reload()).await {
            Ok(Ok(())) => tracing::info!("read the files of TLS and the policy again"),
            Ok(Err(error)) => tracing::error!("goes on with the old state: {error}"),
            Err(error) => tracing::error!("goes on with the old state: {error}"),
        }
    }
}

/// The signals that end a server.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    fn hangup() -> io::Result<tokio::signal::unix::Signal> {
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
    }

    /// Waits for the first signal. A second one ends the process at once.
    async fn first(mut self) {
        self.next().await;
        tracing::info!("ends: a second signal ends it at once");
        tokio::spawn(async move {
            self.next().await;
            tracing::warn!("ends at once");
            std::process::exit(130);
        });
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn introduce(addr: &str, dir: &Path) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "seawalld serves at {addr}, with its data in {}", dir.display())?;
    writeln!(out, "  produce:  echo hello | seawallctl --server {addr} produce")?;
    writeln!(out, "  consume:  seawallctl --server {addr} consume")?;
    writeln!(out, "Ctrl-C ends it. A record is on the disk before it is acknowledged.")?;
    out.flush()
}
