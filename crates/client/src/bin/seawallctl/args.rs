//! What the command line takes.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand, ValueEnum};
use seawall_client::{Client, Limits, Start, Tls};

use crate::failure::Failure;

/// Produces and consumes records of a seawalld cluster, and manages it.
#[derive(Debug, Parser)]
#[command(name = "seawallctl", version, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 the cluster refused or did not answer, 2 the command \
                        could not run. Results go to the standard output, all else to the standard \
                        error."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// When to use colour.
    #[arg(long, global = true, value_enum, default_value_t = Colour::Auto)]
    pub(crate) color: Colour,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Connection {
    /// The address of a server; may be given several times. One that answers is enough.
    #[arg(
        long,
        global = true,
        env = "SEAWALLCTL_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7000"
    )]
    server: Vec<String>,
    /// The certificate of the authority that signed the servers' certificates (PEM).
    #[arg(long, global = true, env = "SEAWALLCTL_CA")]
    ca: Option<PathBuf>,
    /// This program's certificate (PEM).
    #[arg(long, global = true, env = "SEAWALLCTL_CERT", requires = "key")]
    cert: Option<PathBuf>,
    /// The key of the certificate (PEM).
    #[arg(long, global = true, env = "SEAWALLCTL_KEY", requires = "cert")]
    key: Option<PathBuf>,
    /// How long one call may take with all its attempts, such as `500ms`, `30s`, `2m`.
    #[arg(long, global = true, default_value = "30s", value_parser = duration)]
    timeout: Duration,
}

impl Connection {
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        self.client_of(&self.server)
    }

    /// A client that starts at other servers.
    pub(crate) fn client_of(&self, servers: &[String]) -> Result<Client, Failure> {
        let mut builder = Client::builder(servers.iter().cloned()).deadline(self.timeout);
        if self.ca.is_some() || self.cert.is_some() {
            let identity = self.cert.clone().zip(self.key.clone());
            builder = builder.tls(Tls { ca: self.ca.clone(), identity, ..Tls::default() });
        }
        Ok(builder.build()?)
    }
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Appends each line of the standard input as a record.
    Produce(Produce),
    /// Prints the records of a stream.
    Consume(Consume),
    /// Lists, creates, changes and deletes streams.
    Streams(Streams),
    /// Shows and sets where consumers stand.
    Cursors(Cursors),
    /// Shows the state of the cluster, makes it, adds and removes nodes.
    Cluster(Cluster),
    /// Measures how fast records are appended.
    Bench(Bench),
}

#[derive(Debug, Args)]
pub(crate) struct Produce {
    /// The stream.
    #[arg(long, short, default_value = "default")]
    pub(crate) stream: String,
    /// Each line is a JSON object, as `consume --json` prints it. Acknowledgements are JSON, too.
    #[arg(long)]
    pub(crate) json: bool,
    /// What is before this text in a line is the record's key.
    #[arg(long, value_name = "TEXT", conflicts_with = "json")]
    pub(crate) key_separator: Option<String>,
    /// How long a record waits for others to be sent with.
    #[arg(long, default_value = "2ms", value_parser = duration)]
    pub(crate) linger: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Consume {
    /// The stream.
    #[arg(long, short, default_value = "default")]
    pub(crate) stream: String,
    /// Where to start: `earliest`, `latest`, an offset, `10m` (so long ago; ms, s, m, h, d),
    /// `time:MILLISECONDS` (since 1970), `cursor:NAME`.
    #[arg(long, default_value = "earliest", value_name = "WHERE")]
    pub(crate) from: From,
    /// Wait at the end for new records.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// End after so many records.
    #[arg(long, value_name = "COUNT")]
    pub(crate) max: Option<u64>,
    /// Print each record as a JSON object. Bytes that are no UTF-8 are in hexadecimal digits.
    #[arg(long)]
    pub(crate) json: bool,
    /// Store under this name how far records were printed.
    #[arg(long, value_name = "CURSOR")]
    pub(crate) commit: Option<String>,
}

/// Where to start.
#[derive(Debug, Clone)]
pub(crate) struct From(pub(crate) Start);

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<From, String> {
        let number = |text: &str| text.parse::<u64>().ok();
        let start = match text {
            "earliest" => Start::Earliest,
            "latest" => Start::Latest,
            _ => match (text.split_once(':'), number(text)) {
                (Some(("cursor", name)), _) if !name.is_empty() => Start::Cursor(name.to_owned()),
                (Some(("time", ms)), _) => Start::TimeMs(number(ms).ok_or("no time in ms")?),
                (_, Some(offset)) => Start::Offset(offset),
                _ => {
                    let ago = duration(text).map_err(|_| {
                        "use earliest, latest, an offset, 10m, time:MS or cursor:NAME".to_owned()
                    })?;
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    Start::TimeMs(milliseconds(now.saturating_sub(ago)))
                }
            },
        };
        Ok(From(start))
    }
}

#[derive(Debug, Args)]
pub(crate) struct Streams {
    #[command(subcommand)]
    pub(crate) command: StreamsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StreamsCommand {
    /// Shows all streams.
    List {
        /// Print a JSON object for each.
        #[arg(long)]
        json: bool,
    },
    /// Creates a stream.
    Create {
        stream: String,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Deletes a stream with all its records and cursors.
    Delete {
        stream: String,
        /// Really do it.
        #[arg(long)]
        yes: bool,
    },
    /// Sets how long a stream keeps its records. A limit that is left out is removed.
    Limits {
        stream: String,
        #[command(flatten)]
        limits: LimitArgs,
    },
    /// Removes the records below an offset.
    Trim {
        stream: String,
        #[arg(long, value_name = "OFFSET")]
        before: u64,
    },
    /// Shows the first offset, and the offset that the next record gets.
    Offsets {
        stream: String,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct LimitArgs {
    /// Records older than this are removed, such as `7d`.
    #[arg(long, value_parser = duration)]
    age: Option<Duration>,
    /// The oldest records are removed beyond this size, such as `10GiB`.
    #[arg(long, value_parser = size)]
    bytes: Option<u64>,
    /// The oldest records are removed beyond this number.
    #[arg(long)]
    records: Option<u64>,
}

impl LimitArgs {
    pub(crate) fn limits(self) -> Limits {
        Limits { age_ms: self.age.map(milliseconds), bytes: self.bytes, records: self.records }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Cursors {
    #[command(subcommand)]
    pub(crate) command: CursorsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CursorsCommand {
    /// Shows the cursors of a stream.
    List {
        #[arg(long, short, default_value = "default")]
        stream: String,
        /// Print a JSON object for each.
        #[arg(long)]
        json: bool,
    },
    /// Shows where a cursor stands.
    Get {
        #[arg(long, short, default_value = "default")]
        stream: String,
        cursor: String,
    },
    /// Sets a cursor: the offset of the next record that its consumer gets.
    Set {
        #[arg(long, short, default_value = "default")]
        stream: String,
        cursor: String,
        offset: u64,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Cluster {
    #[command(subcommand)]
    pub(crate) command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Shows each node. The exit code is 1 if one does not answer.
    Status {
        /// Print a JSON object for each.
        #[arg(long)]
        json: bool,
    },
    /// Makes a cluster of new nodes, which wait for it. One of them is asked, so `--server` is not
    /// needed.
    Bootstrap {
        /// The addresses of all nodes, as the nodes name themselves: 1, 3 or 5.
        #[arg(required = true, value_name = "ADDR")]
        addresses: Vec<String>,
        /// Print a JSON object for each member.
        #[arg(long)]
        json: bool,
    },
    /// Adds a new node. It gets the records first, and becomes a voter after that.
    Join {
        /// The address of the node, as it names itself.
        #[arg(value_name = "ADDR")]
        address: String,
        /// Wait until the node is a voter.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        patience: Patience,
        /// Print a JSON object for each member.
        #[arg(long)]
        json: bool,
    },
    /// Removes a node. Its id must not be used again.
    Leave {
        #[arg(value_name = "NODE_ID")]
        node_id: u64,
        /// Do not ask before the node is removed.
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        patience: Patience,
        /// Print a JSON object for each member.
        #[arg(long)]
        json: bool,
    },
    /// Adds a new node, waits until it is a voter, and removes another one.
    Replace {
        /// The node that is removed.
        #[arg(value_name = "OLD_ID")]
        old_id: u64,
        /// The address of the new node, as it names itself.
        #[arg(value_name = "ADDR")]
        address: String,
        #[command(flatten)]
        patience: Patience,
        /// Print a JSON object for each member.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Patience {
    /// How long to wait for the members to change. After that, the change may still go on.
    #[arg(long, default_value = "10m", value_parser = duration)]
    pub(crate) wait_max: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// The stream; it is created if there is none.
    #[arg(long, short, default_value = "bench")]
    pub(crate) stream: String,
    /// How many clients, each with a connection of its own.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) clients: u32,
    /// The size of a record.
    #[arg(long, default_value = "100", value_parser = size)]
    pub(crate) record_bytes: u64,
    /// Records for each call, or for each batch of a stream.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: u32,
    /// One call after another, or batches in flight on a stream.
    #[arg(long, value_enum, default_value_t = Mode::Unary)]
    pub(crate) mode: Mode,
    /// How long to measure.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seconds: u64,
    /// Print a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    Unary,
    Stream,
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads `500ms`, `30s`, `10m`, `2h`, `7d`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time such as 500ms, 30s, 10m, 2h or 7d");
    let at = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(wrong)
}

/// Reads `100`, `64KiB`, `10GiB`.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size such as 100, 64KiB, 1MiB or 10GiB");
    let at = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(wrong()),
    };
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        // Method: clap checks its own tables.
        Cli::command().debug_assert();
    }

    #[test]
    fn places_times_and_sizes_are_read() {
        // Method: one of each kind, and some that are none.
        let from = |text: &str| text.parse::<From>().map(|from| from.0);
        assert_eq!(from("earliest"), Ok(Start::Earliest));
        assert_eq!(from("17"), Ok(Start::Offset(17)));
        assert_eq!(from("cursor:a"), Ok(Start::Cursor("a".into())));
        assert_eq!(from("time:5"), Ok(Start::TimeMs(5)));
        assert!(matches!(from("10m"), Ok(Start::TimeMs(1..))));
        assert!(from("tomorrow").is_err() && from("cursor:").is_err() && from("").is_err());
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7_200)));
        assert!(duration("2").is_err() && duration("h").is_err());
        assert!(duration("99999999999999999d").is_err());
        assert_eq!((size("7"), size("2KiB")), (Ok(7), Ok(2_048)));
        assert!(size("7 kB").is_err() && size("99999999999TiB").is_err());
    }
}
