//! `seawalld`: the server's program. Parses, starts, and maps errors to exit codes.

mod args;
mod demo;
mod dev;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use seawall_server::certs::write_dev_certs;
use seawall_server::{Config, ConfigError, Reloader, Server, ServerError};
use tokio::sync::oneshot;

use args::{Args, CertArgs, Command, LogFormat, SettingArgs};

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
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let events = {
        let _entered = runtime.enter();
        Events::start(args.log_format)?
    };
    let outcome = runtime.block_on(async {
        match args.command {
            Command::Dev(args) => dev::run(args).await,
            Command::Run(settings) => run_server(load(&settings)?).await,
            Command::Init(settings) => init(load(&settings)?).await,
            Command::Check(settings) => check(&settings),
            Command::DevCerts(certs) => dev_certs(&certs),
        }
    });
    events.end();
    // A read of a large log may still run. It loses nothing when the process ends.
    runtime.shutdown_timeout(EXIT_WAIT);
    outcome
}

/// Where events go: to stderr, and, with the feature `otlp`, spans of calls to a collector.
struct Events {
    #[cfg(feature = "otlp")]
    spans: Option<seawall_server::otlp::Spans>,
}

impl Events {
    fn start(format: LogFormat) -> anyhow::Result<Events> {
        use tracing_subscriber::layer::SubscriberExt as _;
        use tracing_subscriber::util::SubscriberInitExt as _;
        use tracing_subscriber::{EnvFilter, Layer as _, fmt, registry};
        let filter = EnvFilter::try_from_env("SEAWALLD_LOG")
            // The engine repeats itself at each heartbeat. What matters of it is told by others.
            .unwrap_or_else(|_| EnvFilter::new("info,openraft=off"));
        let lines = match format {
            LogFormat::Text => {
                let is_terminal = io::stderr().is_terminal();
                fmt::layer().with_ansi(is_terminal).with_writer(io::stderr).boxed()
            }
            LogFormat::Json => fmt::layer().json().with_writer(io::stderr).boxed(),
        };
        let subscriber = registry().with(lines.with_filter(filter));
        #[cfg(feature = "otlp")]
        let (subscriber, events) = {
            let spans = seawall_server::otlp::Spans::start();
            let spans = spans.map_err(|error| anyhow::anyhow!("spans cannot be sent: {error}"))?;
            let layer = spans.as_ref().map(|spans| {
                // Only spans of calls: the exporter's own calls would make spans for ever.
                let layer = tracing_opentelemetry::layer().with_tracer(spans.tracer());
                layer.with_filter(EnvFilter::new("off,seawall_server=debug"))
            });
            (subscriber.with(layer), Events { spans })
        };
        #[cfg(not(feature = "otlp"))]
        let events = Events {};
        let started = subscriber.try_init();
        started.map_err(|error| anyhow::anyhow!("the log of events cannot be started: {error}"))?;
        Ok(events)
    }

    /// Sends what is not sent yet.
    fn end(self) {
        #[cfg(feature = "otlp")]
        if let Some(Err(error)) = self.spans.map(seawall_server::otlp::Spans::end) {
            tracing::warn!("the last spans were not sent: {error}");
        }
    }
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
    if let Some(listen) = config.metrics_listen {
        writeln!(out, "  metrics, health and the status page on {listen}")?;
    }
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
    config.metrics_listen = None;
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

/// Serves until a signal says otherwise.
async fn run_server(config: Config) -> anyhow::Result<()> {
    // First: a signal that comes meanwhile ends or reloads the server, and does not kill it.
    let signals = Signals::new()?;
    let hangup = Signals::hangup()?;
    raise_descriptors(&config, 1);
    let server = Server::bind(config).await?;
    let addr = server.addr();
    if let Some(page) = server.metrics_addr() {
        tracing::info!("metrics, health and the status page are at http://{page}/");
    }
    let ready = server.ready();
    let announcing = tokio::spawn(async move {
        if ready.await {
            tracing::info!("serves at {addr}");
        }
    });
    let reloading = tokio::spawn(reload_on_hangup(vec![server.reloader()], hangup));
    let outcome = server.run(signals.first()).await;
    announcing.abort();
    reloading.abort();
    Ok(outcome?)
}

/// Lets the process open as many files as its connections and its log may need: many systems give
/// 1,024 at first. Without one, the log cannot begin a segment, and the node fails. `nodes` are in
/// the process.
pub(crate) fn raise_descriptors(config: &Config, nodes: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // Of sockets that are not ready yet, of the nodes, of the port of the operator, and of the log.
    const OTHERS: u64 = 256 + 64 + 64 + 256;
    let wanted = (config.limits.connections as u64 + OTHERS) * nodes;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let possible = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let raised = Rlimit { current: Some(possible), maximum: limit.maximum };
    let outcome = setrlimit(Resource::Nofile, raised);
    if possible < wanted || outcome.is_err() {
        let connections = config.limits.connections;
        tracing::warn!(
            "{connections} connections and the log may need {wanted} open files, and the system \
             gives fewer: raise `ulimit -n`, or lower limits.connections"
        );
    }
}

/// Reads the files of TLS and the policy again at each SIGHUP.
pub(crate) async fn reload_on_hangup(
    reloaders: Vec<Reloader>,
    mut hangup: tokio::signal::unix::Signal,
) {
    while hangup.recv().await.is_some() {
        let reloaders = reloaders.clone();
        let reload = move || reloaders.iter().try_for_each(Reloader::reload);
        match tokio::task::spawn_blocking(reload).await {
            Ok(Ok(())) => tracing::info!("read the files of TLS and the policy again"),
            Ok(Err(error)) => tracing::error!("goes on with the old state: {error}"),
            Err(error) => tracing::error!("goes on with the old state: {error}"),
        }
    }
}

/// The signals that end a server.
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(crate) fn hangup() -> io::Result<tokio::signal::unix::Signal> {
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
    }

    /// Waits for the first signal. A second one ends the process at once.
    pub(crate) async fn first(mut self) {
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
