//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// A commit log over gRPC. A record is acknowledged after it is on the disk.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Args {
    /// How events are written to stderr. The variable SEAWALLD_LOG selects them, as in
    /// `SEAWALLD_LOG=debug`.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true)]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one node or several on loopback, without TLS, with their data in a directory.
    Dev(DevArgs),
    /// Run a node with the settings of a file, the environment and flags.
    Run(SettingArgs),
    /// Make the group of a new node in its empty directory, and end.
    Init(SettingArgs),
    /// Check the settings, the files of TLS and the policy, and change nothing.
    Check(SettingArgs),
    /// Make an authority and certificates, to try TLS with. Not for production.
    DevCerts(CertArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct DevArgs {
    /// The directory of the data.
    #[arg(long, default_value = "seawall-data")]
    pub(crate) dir: PathBuf,
    /// Where the node listens. Several nodes take the ports from this one on. Port 0 takes free
    /// ports.
    #[arg(long, default_value = "127.0.0.1:7000")]
    pub(crate) listen: SocketAddr,
    /// Where metrics, health and the status page are; of several nodes, from this port on. By
    /// default, 127.0.0.1:7001, or, for several nodes, 100 ports above their own; with free ports,
    /// free ones.
    #[arg(long)]
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// How many nodes run, in this process: 1, 3 or 5. Each has its data in a directory of its own
    /// below the directory.
    #[arg(long, default_value_t = 1, value_parser = parse_nodes)]
    pub(crate) nodes: u32,
    /// Produce and consume a few records, and end.
    #[arg(long)]
    pub(crate) demo: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CertArgs {
    /// The directory of the files. None of them may exist.
    #[arg(long, default_value = "certs")]
    pub(crate) dir: PathBuf,
    /// A further name or address of the node, beside localhost. May be repeated.
    #[arg(long = "name")]
    pub(crate) names: Vec<String>,
    /// A client that gets a certificate. May be repeated.
    #[arg(long = "client", default_value = "client")]
    pub(crate) clients: Vec<String>,
}

/// Settings: a file, then variables `SEAWALLD_*`, then flags. Later ones replace earlier ones.
#[derive(Debug, clap::Args)]
pub(crate) struct SettingArgs {
    /// The file of the settings, in TOML.
    #[arg(long, env = "SEAWALLD_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// The directory of the data.
    #[arg(long)]
    dir: Option<String>,
    /// Where the node listens.
    #[arg(long)]
    listen: Option<String>,
    /// Where metrics, health and the status page are, over HTTP without TLS.
    #[arg(long)]
    metrics_listen: Option<String>,
    /// Listen without TLS on an address that is not loopback.
    #[arg(long)]
    insecure: bool,
    /// Any setting, as in `--set retention.age=1d`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_pair)]
    settings: Vec<(String, String)>,
}

impl SettingArgs {
    /// The settings that flags name.
    pub(crate) fn flags(&self) -> Vec<(String, String)> {
        let mut flags = self.settings.clone();
        let mut add = |key: &str, value: &str| flags.push((key.to_owned(), value.to_owned()));
        if let Some(dir) = &self.dir {
            add("dir", dir);
        }
        if let Some(listen) = &self.listen {
            add("listen", listen);
        }
        if let Some(listen) = &self.metrics_listen {
            add("metrics_listen", listen);
        }
        if self.insecure {
            add("insecure", "true");
        }
        flags
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_nodes(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(nodes @ (1 | 3 | 5)) => Ok(nodes),
        _ => Err("it must be 1, 3 or 5".to_owned()),
    }
}
