//! `Config`: every setting of a node, from a file, the environment and flags, in this order.

mod cluster;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use toml::{Table, Value};

pub use cluster::Raft;
pub(crate) use cluster::{VOTERS_MAX, resolve};

/// The settings of a node. Keys that are not listed here are refused.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Config {
    /// Where the node keeps its data. Default `seawall-data`.
    pub dir: PathBuf,
    /// Where the node listens. Default `127.0.0.1:7000`; port 0 takes a free port.
    pub listen: SocketAddr,
    /// The name or address, with the port, under which clients find the node. Default: the address
    /// it listens on. Needed if that is `0.0.0.0` or `[::]`.
    pub advertise: Option<String>,
    /// The name of the cluster. A directory belongs to one cluster for ever. Default `seawall`.
    pub cluster: String,
    /// The id of the node, at least 1. A directory belongs to one id for ever. Default 1.
    pub node_id: u64,
    /// How many nodes make the group when their directories are empty. 1: this node makes a group of
    /// its own. 3 or 5: the seeds make it together. Default 0: a node with an empty directory waits
    /// until its seeds let it join; without seeds, an empty directory is an error.
    pub bootstrap_expect: u32,
    /// Where other nodes may be: `host:port`, or `dns:name:port` for each address of a name. This
    /// node may be one of them. They are resolved at each attempt. Default: none.
    pub seeds: Vec<String>,
    /// Listen without TLS on an address that is not loopback. Default false.
    pub insecure: bool,
    /// TLS. Without it, the node listens on loopback only, unless `insecure` is set.
    pub tls: Option<Tls>,
    /// Who may do what: lines `p, subject, object, action`; see [`Policy`](crate::authz::Policy).
    /// TLS needs it, and it needs TLS.
    pub policy: Option<PathBuf>,
    /// Where metrics, health and the status page are, over HTTP without TLS. Default: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// How the nodes of a group find out that one of them is gone.
    pub raft: Raft,
    /// How long records are kept.
    pub retention: Retention,
    /// Bounds on what clients may ask for.
    pub limits: Limits,
    /// What happens when the disk fills.
    pub space: Space,
    /// The log below.
    pub log: Log,
}

/// The files of TLS. All are PEM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Tls {
    /// The node's certificate, and those between it and the authority.
    pub cert: PathBuf,
    /// The key of the certificate.
    pub key: PathBuf,
    /// The authority of the clients' certificates. Each client needs one.
    pub client_ca: PathBuf,
}

/// How long the records of all streams are kept. A stream's own limits may only be shorter.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Retention {
    /// How old a record may become. Default `7d`.
    #[serde(deserialize_with = "duration")]
    pub age: Duration,
    /// How many bytes the log may take. Default `50GiB`, at least two segments.
    pub bytes: ByteSize,
}

/// Bounds on what clients may ask for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Limits {
    /// The value, key and headers of a record together. Default `1MiB`, at most `1MiB`.
    pub record_bytes: ByteSize,
    /// All records of one call together. Default `1MiB`, at most `1MiB`.
    pub batch_bytes: ByteSize,
    /// Records of one call. Default 10,000.
    pub batch_records: usize,
    /// Requests that wait to be appended. Default `64MiB`.
    pub queue_bytes: ByteSize,
    /// Calls of one `ProduceStream` that are in flight. Default 64.
    pub stream_in_flight: usize,
    /// Open connections. Default 1,000.
    pub connections: usize,
    /// Calls that run at once on one connection. Default 256.
    pub calls_per_connection: u32,
    /// Streams of the group. Default 1,000. Must be equal on all nodes.
    pub streams: usize,
    /// Producers that are remembered. Default 10,000. Must be equal on all nodes.
    pub producers: usize,
    /// Cursors of a stream. Default 1,000. Must be equal on all nodes.
    pub cursors: usize,
}

/// What happens when the disk fills.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Space {
    /// Below this much free space, records are refused. Default `256MiB`.
    pub free_bytes: ByteSize,
    /// Below this share of free space, records are refused. Default 5; 0 to 50.
    pub free_percent: u8,
    /// A file that is given up on a full disk, so that the node can purge. Default `64MiB`.
    pub ballast_bytes: ByteSize,
    /// How long a write waits for space before the node fails. Default `10s`.
    #[serde(deserialize_with = "duration")]
    pub full_wait: Duration,
}

/// The log below.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Log {
    /// The size at which a segment is sealed. Default `64MiB`, at least `1MiB`.
    pub segment_bytes: ByteSize,
    /// How long an append may wait for its sync before the node says that it is not serving. It
    /// serves again when the sync returns. Default `30s`, at least `1s`.
    #[serde(deserialize_with = "duration")]
    pub sync_wait: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            dir: PathBuf::from("seawall-data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 7000)),
            advertise: None,
            cluster: "seawall".to_owned(),
            node_id: 1,
            bootstrap_expect: 0,
            seeds: Vec::new(),
            insecure: false,
            tls: None,
            policy: None,
            metrics_listen: None,
            raft: Raft::default(),
            retention: Retention::default(),
            limits: Limits::default(),
            space: Space::default(),
            log: Log::default(),
        }
    }
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { age: Duration::from_secs(7 * 24 * 3600), bytes: ByteSize::gib(50) }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            record_bytes: ByteSize::mib(1),
            batch_bytes: ByteSize::mib(1),
            batch_records: 10_000,
            queue_bytes: ByteSize::mib(64),
            stream_in_flight: 64,
            connections: 1_000,
            calls_per_connection: 256,
            streams: 1_000,
            producers: 10_000,
            cursors: 1_000,
        }
    }
}

impl Default for Space {
    fn default() -> Space {
        Space {
            free_bytes: ByteSize::mib(256),
            free_percent: 5,
            ballast_bytes: ByteSize::mib(64),
            full_wait: Duration::from_secs(10),
        }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log { segment_bytes: ByteSize::mib(64), sync_wait: Duration::from_secs(30) }
    }
}

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or a key or a value in it is wrong.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and in which line.
        source: Box<toml::de::Error>,
    },
    /// A variable of the environment or a flag names no setting.
    #[error("{source_name}: there is no setting {key}; there are: {}", key_list())]
    UnknownKey {
        /// The variable or the flag.
        source_name: String,
        /// The key that it names.
        key: String,
    },
    /// A value is not what the setting takes.
    #[error("{source_name}: {reason}")]
    Value {
        /// Where the value comes from: a file, a variable, a flag, or the setting.
        source_name: String,
        /// What is wrong, and what to do.
        reason: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Flag,
    /// Texts with commas between them.
    List,
}

/// Each setting that a variable or a flag can set.
const KEYS: [(&str, Kind); 34] = [
    ("dir", Kind::Text),
    ("listen", Kind::Text),
    ("advertise", Kind::Text),
    ("cluster", Kind::Text),
    ("node_id", Kind::Number),
    ("bootstrap_expect", Kind::Number),
    ("seeds", Kind::List),
    ("insecure", Kind::Flag),
    ("tls.cert", Kind::Text),
    ("tls.key", Kind::Text),
    ("tls.client_ca", Kind::Text),
    ("policy", Kind::Text),
    ("metrics_listen", Kind::Text),
    ("raft.heartbeat", Kind::Text),
    ("raft.election_timeout", Kind::Text),
    ("raft.routes", Kind::List),
    ("retention.age", Kind::Text),
    ("retention.bytes", Kind::Text),
    ("limits.record_bytes", Kind::Text),
    ("limits.batch_bytes", Kind::Text),
    ("limits.batch_records", Kind::Number),
    ("limits.queue_bytes", Kind::Text),
    ("limits.stream_in_flight", Kind::Number),
    ("limits.connections", Kind::Number),
    ("limits.calls_per_connection", Kind::Number),
    ("limits.streams", Kind::Number),
    ("limits.producers", Kind::Number),
    ("limits.cursors", Kind::Number),
    ("space.free_bytes", Kind::Text),
    ("space.free_percent", Kind::Number),
    ("space.ballast_bytes", Kind::Text),
    ("space.full_wait", Kind::Text),
    ("log.segment_bytes", Kind::Text),
    ("log.sync_wait", Kind::Text),
];

/// What a variable of the environment begins with.
pub const PREFIX: &str = "SEAWALLD_";

/// Variables with the prefix that are not settings.
const NO_SETTINGS: [&str; 2] = ["SEAWALLD_CONFIG", "SEAWALLD_LOG"];

fn key_list() -> String {
    let keys: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
    keys.join(", ")
}

impl Config {
    /// Reads the settings: those of the file, if there is one, then those of the environment, then
    /// those of flags. Later ones replace earlier ones. Checks them all.
    ///
    /// # Errors
    /// [`ConfigError`], with the place of what is wrong.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Config, ConfigError> {
        let mut table = Table::new();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.into(), source })?;
            let error = |source| ConfigError::File { path: path.into(), source: Box::new(source) };
            // Read on its own first, so that an error names the line.
            toml::from_str::<Config>(&text).map_err(error)?;
            table = toml::from_str(&text).map_err(error)?;
        }
        for (name, value) in environment {
            if !name.starts_with(PREFIX) || NO_SETTINGS.contains(&name.as_str()) {
                continue;
            }
            let found = KEYS.iter().find(|(key, _)| variable(key) == name);
            let Some((key, kind)) = found else {
                let key = name[PREFIX.len()..].to_lowercase();
                return Err(ConfigError::UnknownKey { source_name: name, key });
            };
            set(&mut table, key, *kind, &value, &name)?;
        }
        for (key, value) in flags {
            let source_name = format!("flag for {key}");
            let Some((key, kind)) = KEYS.iter().find(|(known, _)| known == key) else {
                return Err(ConfigError::UnknownKey { source_name, key: key.clone() });
            };
            set(&mut table, key, *kind, value, &source_name)?;
        }
        let config = Config::deserialize(table).map_err(|error| ConfigError::Value {
            source_name: "settings".to_owned(),
            reason: error.to_string(),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError::Value`]: a value is out of its range, or settings contradict one another.
    pub fn check(&self) -> Result<(), ConfigError> {
        let error = |key: &str, reason: &str| {
            Err(ConfigError::Value { source_name: key.to_owned(), reason: reason.to_owned() })
        };
        if self.node_id == 0 {
            return error("node_id", "must be at least 1");
        }
        cluster::check(self)?;
        if self.metrics_listen == Some(self.listen) && self.listen.port() != 0 {
            return error("metrics_listen", "must differ from listen");
        }
        if self.cluster.is_empty() || self.cluster.len() > 128 {
            return error("cluster", "must have 1 to 128 bytes");
        }
        if self.tls.is_none() && self.policy.is_some() {
            return error("policy", "needs TLS: set tls.cert, tls.key and tls.client_ca");
        }
        if self.tls.is_some() && self.policy.is_none() {
            return error(
                "policy",
                "is missing: with TLS, name a file of lines such as `p, billing, orders, consume`; \
                 the line `p, *, *, *` lets every client do everything",
            );
        }
        if self.tls.is_none() && !self.insecure && !self.listen.ip().to_canonical().is_loopback() {
            return error(
                "listen",
                "is not loopback: set tls.cert, tls.key and tls.client_ca, or, if every client of \
                 the network may read and write, `insecure`",
            );
        }
        if self.listen.ip().is_unspecified() && self.advertise.is_none() {
            return error(
                "advertise",
                "is missing: clients cannot reach the address that `listen` names; set the name or \
                 address of this machine, with the port",
            );
        }
        for (key, bytes) in [
            ("limits.record_bytes", self.limits.record_bytes),
            ("limits.batch_bytes", self.limits.batch_bytes),
        ] {
            if bytes.as_u64() == 0 || bytes > ByteSize::mib(1) {
                return error(key, "must be 1 byte to 1MiB");
            }
        }
        if self.limits.record_bytes > self.limits.batch_bytes {
            return error("limits.record_bytes", "must be at most limits.batch_bytes");
        }
        if self.limits.queue_bytes < ByteSize::mib(4) {
            return error("limits.queue_bytes", "must be at least 4MiB");
        }
        for (key, count) in [
            ("limits.batch_records", self.limits.batch_records),
            ("limits.stream_in_flight", self.limits.stream_in_flight),
            ("limits.connections", self.limits.connections),
            ("limits.calls_per_connection", self.limits.calls_per_connection as usize),
            ("limits.streams", self.limits.streams),
            ("limits.producers", self.limits.producers),
            ("limits.cursors", self.limits.cursors),
        ] {
            if count == 0 || count > 1_000_000 {
                return error(key, "must be 1 to 1,000,000");
            }
        }
        if self.space.free_percent > 50 {
            return error("space.free_percent", "must be 0 to 50");
        }
        if self.log.segment_bytes < ByteSize::mib(1) {
            return error("log.segment_bytes", "must be at least 1MiB");
        }
        if self.log.sync_wait < Duration::from_secs(1) {
            return error("log.sync_wait", "must be at least 1s");
        }
        // Space is freed by segments. With less, records would go and free nothing.
        if self.retention.bytes.as_u64() / 2 < self.log.segment_bytes.as_u64() {
            return error("retention.bytes", "must be at least twice log.segment_bytes");
        }
        if self.retention.age < Duration::from_secs(1) {
            return error("retention.age", "must be at least 1s");
        }
        Ok(())
    }
}

fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// Sets one key of the table.
fn set(
    table: &mut Table,
    key: &str,
    kind: Kind,
    text: &str,
    source_name: &str,
) -> Result<(), ConfigError> {
    let wrong = |what: &str| ConfigError::Value {
        source_name: source_name.to_owned(),
        reason: format!("{text:?} is not {what}"),
    };
    let value = match kind {
        Kind::Text => Value::String(text.to_owned()),
        Kind::Number => Value::Integer(text.parse().map_err(|_| wrong("a number"))?),
        Kind::Flag => Value::Boolean(text.parse().map_err(|_| wrong("true or false"))?),
        Kind::List => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Value::Array(parts.map(|part| Value::String(part.to_owned())).collect())
        }
    };
    let mut table = table;
    let mut name = key;
    if let Some((section, rest)) = key.split_once('.') {
        let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
        table =
            entry.as_table_mut().ok_or_else(|| wrong("possible: the file has no table there"))?;
        name = rest;
    }
    table.insert(name.to_owned(), value);
    Ok(())
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|error| {
        serde::de::Error::custom(format!("{text:?} is not a duration such as 10s or 7d: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(
        file: &str,
        variables: &[(&str, &str)],
        flags: &[(&str, &str)],
    ) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.conf");
        std::fs::write(&path, file).unwrap();
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
        };
        Config::load(Some(&path), pairs(variables), &pairs(flags))
    }

    #[test]
    fn flags_win_over_variables_and_these_over_the_file() {
        let file = "cluster = \"file\"\n[retention]\nage = \"1h\"\nbytes = \"1GiB\"\n";
        let config = load(file, &[], &[]).unwrap();
        assert_eq!(config.cluster, "file");
        assert_eq!(config.retention.age, Duration::from_secs(3600));
        assert_eq!(config.retention.bytes, ByteSize::gib(1));
        let variables = [("SEAWALLD_CLUSTER", "env"), ("SEAWALLD_RETENTION_AGE", "2h")];
        let config = load(file, &variables, &[]).unwrap();
        assert_eq!(config.cluster, "env");
        assert_eq!(config.retention.age, Duration::from_secs(7200));
        let config = load(file, &variables, &[("cluster", "flag")]).unwrap();
        assert_eq!(config.cluster, "flag");
        assert_eq!(config.retention.bytes, ByteSize::gib(1));
    }

    #[test]
    fn unknown_keys_are_refused_wherever_they_are() {
        let error = load("retentoin = 1\n", &[], &[]).unwrap_err().to_string();
        assert!(error.contains("retentoin") && error.contains("node.conf"), "{error}");
        let error = load("[limits]\nrecords = 1\n", &[], &[]).unwrap_err().to_string();
        assert!(error.contains("records") && error.contains("line 2"), "{error}");
        let error = load("", &[("SEAWALLD_RETENTOIN", "1")], &[]).unwrap_err().to_string();
        assert!(error.contains("SEAWALLD_RETENTOIN"), "{error}");
        let error = load("", &[], &[("retentoin", "1")]).unwrap_err().to_string();
        assert!(error.contains("retentoin"), "{error}");
        assert!(load("", &[("SEAWALLD_LOG", "debug"), ("PATH", "x")], &[]).is_ok());
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for (key, value) in [
            ("node_id", "0"),
            ("node_id", "x"),
            ("listen", "0.0.0.0:7000"),
            ("listen", "nowhere"),
            ("metrics_listen", "127.0.0.1:7000"),
            ("policy", "policy.csv"),
            ("limits.record_bytes", "2MiB"),
            ("limits.queue_bytes", "1KiB"),
            ("limits.streams", "0"),
            ("retention.age", "10"),
            ("retention.age", "0s"),
            ("space.free_percent", "60"),
            ("log.segment_bytes", "1B"),
            ("log.sync_wait", "10ms"),
            ("insecure", "maybe"),
        ] {
            assert!(load("", &[], &[(key, value)]).is_err(), "{key} = {value}");
        }
        let everywhere =
            [("listen", "0.0.0.0:7000"), ("insecure", "true"), ("advertise", "a:7000")];
        assert!(load("", &[], &everywhere[..2]).is_err(), "nothing to advertise");
        assert!(load("", &[], &everywhere).is_ok());
    }

    #[test]
    fn tls_and_policy_need_each_other() {
        let tls = [("tls.cert", "c"), ("tls.key", "k"), ("tls.client_ca", "a")];
        let error = load("", &[], &tls).unwrap_err().to_string();
        assert!(error.starts_with("policy: is missing"), "{error}");
        let both: Vec<_> =
            tls.into_iter().chain([("policy", "p"), ("listen", "192.0.2.1:1")]).collect();
        assert!(load("", &[], &both).is_ok(), "it may listen beyond loopback");
        assert!(load("", &[], &[("tls.cert", "c")]).is_err(), "a part of it");
    }

    #[test]
    fn each_setting_can_be_set_by_variable_and_flag() {
        // Method: a value of the wrong kind, or out of range, is the setting's own error, and not
        // that of an unknown key.
        for (key, kind) in KEYS {
            let value = match kind {
                Kind::Text | Kind::List => "1",
                Kind::Number => "1",
                Kind::Flag => "true",
            };
            for outcome in
                [load("", &[], &[(key, value)]), load("", &[(variable(key).as_str(), value)], &[])]
            {
                if let Err(error) = outcome {
                    let error = error.to_string();
                    assert!(!error.contains("there is no setting"), "{key}: {error}");
                    assert!(!error.contains("unknown field"), "{key}: {error}");
                }
            }
        }
    }

    /// The example of the settings that users start from.
    const EXAMPLE: &str = "../../packaging/seawalld.toml";

    #[test]
    fn the_example_shows_each_setting_with_its_default() {
        let config = Config::load(Some(Path::new(EXAMPLE)), [], &[]).unwrap();
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
        // What has no default is commented out, without a space. It must be right all the same.
        let text = std::fs::read_to_string(EXAMPLE).unwrap();
        let lines = text.lines().map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest,
            _ => line,
        });
        let text = lines.collect::<Vec<&str>>().join("\n");
        let table: Table = toml::from_str(&text).unwrap();
        for (key, _) in KEYS {
            let found = match key.split_once('.') {
                Some((section, name)) => table.get(section).and_then(|found| found.get(name)),
                None => table.get(key),
            };
            assert!(found.is_some(), "{key} is not in {EXAMPLE}");
        }
        load(&text, &[], &[]).unwrap();
    }

    #[test]
    fn the_container_starts_as_its_file_says() {
        // Method: the variables of the image, and those of the command in its first comment.
        let text = std::fs::read_to_string("../../Dockerfile").unwrap();
        let pairs = text.split_whitespace().filter_map(|word| word.split_once('='));
        let variables: Vec<_> = pairs.filter(|(name, _)| name.starts_with(PREFIX)).collect();
        assert!(variables.len() >= 6, "{variables:?}");
        load("", &variables, &[]).unwrap();
    }

    #[test]
    fn the_page_of_the_server_lists_each_setting() {
        let page = std::fs::read_to_string("../../docs/server.md").unwrap();
        for (key, _) in KEYS {
            assert!(page.contains(&format!("| `{key}`")), "{key}");
        }
    }
}
