//! `Metrics`: what a node counts, as text for Prometheus. Each node has its own: nothing here is of
//! the process, so nodes that share a process do not mix their numbers.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use prost::Message as _;
use tokio::sync::watch;
use tonic::Code;

use crate::health;
use crate::join::Seat;
use crate::listen::ListenStats;
use crate::node::{Node, Running};
use crate::raft::{Member, Standing};
use crate::watchers::stopped;

/// The upper bounds of the buckets of each histogram, in seconds.
const BUCKETS: [f64; 16] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];

/// How often samples are moved into their buckets, and the leader is looked at.
const UPKEEP: Duration = Duration::from_millis(500);

const METADATA: Metadata<'static> = Metadata::new("seawall", Level::INFO, Some("seawall"));

const CALLS: &str = "seawall_calls_total";
const CALLS_OPEN: &str = "seawall_calls_open";
const CALL_SECONDS: &str = "seawall_call_seconds";
const SYNC_SECONDS: &str = "seawall_log_sync_seconds";
const LEADER_CHANGES: &str = "seawall_raft_leader_changes_total";
const FOLLOWER_LAG: &str = "seawall_raft_follower_lag_entries";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

const LAG_HELP: &str =
    "Entries that a node is not known to have, by its id. Only the leader knows them.";

/// Each metric, with its unit and what it means. `docs/server.md` lists them too.
const LIST: [(&str, Kind, Unit, &str); 35] = [
    ("seawall_node_info", Kind::Gauge, Unit::Count, "Always 1. Names the node and its version."),
    ("seawall_ready", Kind::Gauge, Unit::Count, "1 if the service log.v1.Log is serving, else 0."),
    ("seawall_uptime_seconds", Kind::Gauge, Unit::Seconds, "Seconds since the node was started."),
    (
        "seawall_refuses_records",
        Kind::Gauge,
        Unit::Count,
        "1 if records are refused because the disk is full or nearly so, else 0.",
    ),
    ("seawall_connections_open", Kind::Gauge, Unit::Count, "Connections of clients that are open."),
    ("seawall_connections_max", Kind::Gauge, Unit::Count, "How many may be open."),
    ("seawall_free_bytes", Kind::Gauge, Unit::Bytes, "Free space of the disk with the data."),
    ("seawall_raft_term", Kind::Gauge, Unit::Count, "The term of the group."),
    ("seawall_raft_is_leader", Kind::Gauge, Unit::Count, "1 if this node leads, else 0."),
    ("seawall_raft_has_leader", Kind::Gauge, Unit::Count, "1 if a leader is known, else 0."),
    (LEADER_CHANGES, Kind::Counter, Unit::Count, "How often a new leader was seen."),
    ("seawall_raft_members", Kind::Gauge, Unit::Count, "Nodes of the group."),
    ("seawall_raft_voters", Kind::Gauge, Unit::Count, "Nodes of the group that vote."),
    (
        "seawall_raft_members_warning",
        Kind::Gauge,
        Unit::Count,
        "1 if the members need the operator: an even number of them votes for a minute. Else 0.",
    ),
    (FOLLOWER_LAG, Kind::Gauge, Unit::Count, LAG_HELP),
    ("seawall_raft_last_index", Kind::Gauge, Unit::Count, "The index of the last entry."),
    (
        "seawall_raft_durable_index",
        Kind::Gauge,
        Unit::Count,
        "The index of the last entry that is on the disk of this node.",
    ),
    (
        "seawall_raft_committed_index",
        Kind::Gauge,
        Unit::Count,
        "The index of the last entry that this node knows to be committed.",
    ),
    (
        "seawall_raft_applied_index",
        Kind::Gauge,
        Unit::Count,
        "The index of the last entry that this node has applied.",
    ),
    (
        "seawall_raft_purged_index",
        Kind::Gauge,
        Unit::Count,
        "The index of the last entry that retention has removed.",
    ),
    ("seawall_proposals_total", Kind::Counter, Unit::Count, "Entries that were proposed."),
    (
        "seawall_proposed_operations_total",
        Kind::Counter,
        Unit::Count,
        "Operations in these entries: appends, and changes of streams and cursors.",
    ),
    (
        "seawall_proposed_records_total",
        Kind::Counter,
        Unit::Count,
        "Records in these entries, refused ones included.",
    ),
    (
        "seawall_queue_bytes",
        Kind::Gauge,
        Unit::Bytes,
        "Bytes of requests that wait or are being proposed.",
    ),
    ("seawall_queue_bytes_max", Kind::Gauge, Unit::Bytes, "The limit of seawall_queue_bytes."),
    ("seawall_log_bytes", Kind::Gauge, Unit::Bytes, "Bytes of the log that are live."),
    ("seawall_log_segments", Kind::Gauge, Unit::Count, "Segments of the log that are live."),
    (
        "seawall_log_written_bytes_total",
        Kind::Counter,
        Unit::Bytes,
        "Bytes that were written to the log since the start.",
    ),
    ("seawall_log_syncs_total", Kind::Counter, Unit::Count, "Syncs of the log since the start."),
    (SYNC_SECONDS, Kind::Histogram, Unit::Seconds, "How long the syncs of the log took."),
    ("seawall_streams", Kind::Gauge, Unit::Count, "Streams of the group."),
    ("seawall_streams_bytes", Kind::Gauge, Unit::Bytes, "Bytes of the records of all streams."),
    (CALLS, Kind::Counter, Unit::Count, "Calls that have ended, by the code of their outcome."),
    (CALLS_OPEN, Kind::Gauge, Unit::Count, "Calls that have begun and not ended."),
    (
        CALL_SECONDS,
        Kind::Histogram,
        Unit::Seconds,
        "How long calls with one request and one answer took, until the answer was sent.",
    ),
];

/// The metrics of a node. Clones are of the same node.
#[derive(Clone)]
pub(crate) struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    methods: HashMap<String, Arc<Method>>,
    /// All calls whose path is no method. Clients must not be able to make new labels.
    unknown: Arc<Method>,
    sync_seconds: Histogram,
    leader: Mutex<Option<(u64, u64)>>,
    connections: OnceLock<ListenStats>,
}

/// A method of a service, and what is counted of its calls.
pub(crate) struct Method {
    service: String,
    name: String,
    open: Gauge,
    ok: Counter,
    /// Absent if a call may last for ever.
    seconds: Option<Histogram>,
}

impl Method {
    fn new(recorder: &PrometheusRecorder, service: &str, name: &str, shape: Shape) -> Method {
        let labels = || vec![label("service", service), label("method", name)];
        let key = |metric| Key::from_parts(metric, labels());
        let mut ok = labels();
        ok.push(label("code", code_name(Code::Ok)));
        Method {
            service: service.to_owned(),
            name: name.to_owned(),
            open: recorder.register_gauge(&key(CALLS_OPEN), &METADATA),
            ok: recorder.register_counter(&Key::from_parts(CALLS, ok), &METADATA),
            seconds: (shape == Shape::Unary)
                .then(|| recorder.register_histogram(&key(CALL_SECONDS), &METADATA)),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.service, self.name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Unary,
    Streaming,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let builder = PrometheusBuilder::new();
        let builder = builder.set_buckets(&BUCKETS).unwrap_or_else(|error| {
            unreachable!("there are buckets: {error}") // The only error is an empty list.
        });
        let recorder = builder.build_recorder();
        for (name, kind, unit, help) in LIST {
            let name = KeyName::from_const_str(name);
            match kind {
                Kind::Counter => recorder.describe_counter(name, Some(unit), help.into()),
                Kind::Gauge => recorder.describe_gauge(name, Some(unit), help.into()),
                Kind::Histogram => recorder.describe_histogram(name, Some(unit), help.into()),
            }
        }
        let mut methods = HashMap::new();
        for (service, name, shape) in known_methods() {
            let method = Method::new(&recorder, &service, &name, shape);
            methods.insert(format!("/{method}"), Arc::new(method));
        }
        let unknown = Arc::new(Method::new(&recorder, "unknown", "unknown", Shape::Streaming));
        let sync_seconds =
            recorder.register_histogram(&Key::from_static_name(SYNC_SECONDS), &METADATA);
        let handle = recorder.handle();
        Metrics {
            inner: Arc::new(Inner {
                recorder,
                handle,
                methods,
                unknown,
                sync_seconds,
                leader: Mutex::new(None),
                connections: OnceLock::new(),
            }),
        }
    }

    /// Counts the connections of a listener from now on. A node has one.
    pub(crate) fn watch_connections(&self, stats: ListenStats) {
        let _has_one = self.inner.connections.set(stats);
    }

    /// Returns how many connections of clients are open.
    pub(crate) fn open_connections(&self) -> usize {
        self.inner.connections.get().map_or(0, |stats| stats.counts().open)
    }

    /// Returns the method at a path such as `/log.v1.Log/Produce`.
    pub(crate) fn method(&self, path: &str) -> Arc<Method> {
        self.inner.methods.get(path).unwrap_or(&self.inner.unknown).clone()
    }

    /// Counts a call that begins. [`call_ended`](Metrics::call_ended) must follow.
    pub(crate) fn call_began(&self, method: &Method) {
        method.open.increment(1.0);
    }

    /// Counts a call that has ended.
    pub(crate) fn call_ended(&self, method: &Method, code: Code, took: Duration) {
        method.open.decrement(1.0);
        if let Some(seconds) = &method.seconds {
            seconds.record(took.as_secs_f64());
        }
        if code == Code::Ok {
            method.ok.increment(1);
            return;
        }
        let labels = vec![
            label("service", &method.service),
            label("method", &method.name),
            label("code", code_name(code)),
        ];
        self.inner
            .recorder
            .register_counter(&Key::from_parts(CALLS, labels), &METADATA)
            .increment(1);
    }

    /// Counts a sync of the log.
    pub(crate) fn synced(&self, took: Duration) {
        self.inner.sync_seconds.record(took.as_secs_f64());
    }

    /// Returns the metrics as text.
    pub(crate) fn render(&self, node: &Node) -> String {
        let config = node.config();
        let info = vec![
            label("version", env!("CARGO_PKG_VERSION")),
            label("cluster", &config.cluster),
            label("node_id", &config.node_id.to_string()),
        ];
        let info = Key::from_parts("seawall_node_info", info);
        self.inner.recorder.register_gauge(&info, &METADATA).set(1.0);
        self.set("seawall_ready", one_if(health::not_ready_reason(node).is_none()));
        self.set("seawall_uptime_seconds", node.uptime().as_secs_f64());
        self.set("seawall_connections_open", number(self.open_connections() as u64));
        self.set("seawall_connections_max", number(config.limits.connections as u64));
        let Some(parts) = node.parts() else { return self.inner.handle.render() };
        self.look(parts);
        let warning = node.seat().map(Seat::warning).unwrap_or_default();
        self.set("seawall_raft_members_warning", one_if(!warning.is_empty()));
        let members = parts.group.members();
        self.set("seawall_raft_members", number(members.len() as u64));
        let voters = members.iter().filter(|member| member.is_voter).count();
        self.set("seawall_raft_voters", number(voters as u64));
        let standing = parts.group.standing();
        self.inner.handle.render() + &render_lags(&members, &standing)
    }

    /// Sets what is not counted as it happens.
    fn look(&self, parts: &Running) {
        self.watch_leader(parts);
        let standing = parts.group.standing();
        self.set("seawall_raft_term", number(standing.term));
        self.set("seawall_raft_is_leader", one_if(standing.is_leader));
        self.set("seawall_raft_has_leader", one_if(standing.leader.is_some()));
        self.set("seawall_raft_last_index", number(standing.last_index));
        self.set("seawall_raft_durable_index", number(standing.durable_index));
        self.set("seawall_raft_committed_index", number(standing.committed_index));
        self.set("seawall_raft_applied_index", number(standing.applied_index));
        self.set("seawall_raft_purged_index", number(standing.purged_index));

        let figures = parts.queue.figures();
        self.count("seawall_proposals_total", figures.proposals);
        self.count("seawall_proposed_operations_total", figures.operations);
        self.count("seawall_proposed_records_total", figures.records);
        self.set("seawall_queue_bytes", number(parts.queue.queued_bytes()));
        self.set("seawall_queue_bytes_max", number(parts.queue.queue_bytes_max()));

        self.set("seawall_refuses_records", one_if(parts.space.refusal().is_some()));
        self.set("seawall_free_bytes", number(parts.space.free_bytes()));

        let stats = parts.group.log_stats();
        self.set("seawall_log_bytes", number(stats.live_bytes));
        self.set("seawall_log_segments", number(stats.live_segments));
        self.count("seawall_log_written_bytes_total", stats.bytes);
        self.count("seawall_log_syncs_total", stats.syncs);

        let applied = parts.group.applied();
        let mut streams = 0u64;
        let mut bytes = 0u64;
        for (_, stream) in applied.index.streams() {
            streams += 1;
            bytes = bytes.saturating_add(stream.bytes());
        }
        drop(applied);
        self.set("seawall_streams", number(streams));
        self.set("seawall_streams_bytes", number(bytes));
    }

    fn watch_leader(&self, parts: &Running) {
        let standing = parts.group.standing();
        let Some(leader) = standing.leader else { return };
        let now = Some((standing.term, leader));
        let mut last = self.inner.leader.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != now {
            *last = now;
            let changes = Key::from_static_name(LEADER_CHANGES);
            self.inner.recorder.register_counter(&changes, &METADATA).increment(1);
        }
    }

    fn set(&self, name: &'static str, value: f64) {
        self.inner.recorder.register_gauge(&Key::from_static_name(name), &METADATA).set(value);
    }

    /// Sets a counter whose owner counts.
    fn count(&self, name: &'static str, value: u64) {
        let key = Key::from_static_name(name);
        self.inner.recorder.register_counter(&key, &METADATA).absolute(value);
    }
}

/// Returns how far the other nodes lag, as text. The recorder would show the lag of a node for ever,
/// also after the node is gone, or after this node has ceased to lead.
fn render_lags(members: &[Member], standing: &Standing) -> String {
    let mut text = String::new();
    for member in members {
        let Some(lag) = member.lag(standing) else { continue };
        if text.is_empty() {
            text = format!("# HELP {FOLLOWER_LAG} {LAG_HELP}\n# TYPE {FOLLOWER_LAG} gauge\n");
        }
        text += &format!("{FOLLOWER_LAG}{{follower=\"{}\"}} {lag}\n", member.node_id);
    }
    text
}

/// Moves samples into their buckets, so that they take no memory if the metrics are not read.
/// Ends with `stop`.
pub(crate) async fn keep_up(node: Node, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(UPKEEP) => {}
        }
        let metrics = node.metrics();
        metrics.inner.handle.run_upkeep();
        if let Some(parts) = node.parts() {
            metrics.watch_leader(parts);
        }
    }
}

/// Returns service, name and shape of each method that the server has.
fn known_methods() -> Vec<(String, String, Shape)> {
    let mut methods = Vec::new();
    for descriptors in [
        seawall_proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    ] {
        // A set that cannot be read leaves its methods among the unknown ones. A test reads them.
        let set = prost_types::FileDescriptorSet::decode(descriptors).unwrap_or_default();
        for file in set.file {
            for service in &file.service {
                let full = format!("{}.{}", file.package(), service.name());
                for method in &service.method {
                    let streams = method.client_streaming() || method.server_streaming();
                    let shape = if streams { Shape::Streaming } else { Shape::Unary };
                    methods.push((full.clone(), method.name().to_owned(), shape));
                }
            }
        }
    }
    methods
}

fn label(key: &'static str, value: &str) -> Label {
    Label::new(key, value.to_owned())
}

/// Prometheus has floating-point numbers only. Above 2^53 they are not exact.
fn number(value: u64) -> f64 {
    value as f64
}

fn one_if(holds: bool) -> f64 {
    if holds { 1.0 } else { 0.0 }
}

/// Returns the name of a code as gRPC spells it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_methods_of_all_services_are_known() {
        let methods = known_methods();
        for (service, name, shape) in [
            ("log.v1.Log", "Produce", Shape::Unary),
            ("log.v1.Log", "ConsumeStream", Shape::Streaming),
            ("log.v1.Log", "ProduceStream", Shape::Streaming),
            ("seawall.admin.v1.Admin", "Status", Shape::Unary),
            ("grpc.health.v1.Health", "Check", Shape::Unary),
            ("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo", Shape::Streaming),
        ] {
            let wanted = (service.to_owned(), name.to_owned(), shape);
            assert!(methods.contains(&wanted), "{wanted:?}: {methods:?}");
        }
    }

    #[test]
    fn calls_are_counted_and_no_path_makes_a_label() {
        let metrics = Metrics::new();
        let method = metrics.method("/log.v1.Log/Produce");
        for code in [Code::Ok, Code::Ok, Code::NotFound] {
            metrics.call_began(&method);
            metrics.call_ended(&method, code, Duration::from_millis(2));
        }
        let unknown = metrics.method("/none/\"such\n");
        metrics.call_began(&unknown);
        metrics.synced(Duration::from_micros(300));
        let text = metrics.inner.handle.render();
        let of = "service=\"log.v1.Log\",method=\"Produce\"";
        for line in [
            format!("seawall_calls_total{{{of},code=\"OK\"}} 2"),
            format!("seawall_calls_total{{{of},code=\"NOT_FOUND\"}} 1"),
            format!("seawall_calls_open{{{of}}} 0"),
            "seawall_calls_open{service=\"unknown\",method=\"unknown\"} 1".to_owned(),
            format!("seawall_call_seconds_bucket{{{of},le=\"0.001\"}} 0"),
            format!("seawall_call_seconds_bucket{{{of},le=\"0.0025\"}} 3"),
            "seawall_log_sync_seconds_bucket{le=\"0.0005\"} 1".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
        assert!(!text.contains("such"), "{text}");
    }

    #[test]
    fn only_the_leader_tells_how_far_others_lag() {
        let member = |node_id, matched_index| Member {
            node_id,
            addr: String::new(),
            log_id: String::new(),
            is_voter: true,
            is_leaving: false,
            is_leader: node_id == 1,
            matched_index,
        };
        let members = [member(1, Some(9)), member(2, Some(7)), member(3, None)];
        let mut standing = Standing { last_index: 9, is_leader: true, ..Standing::default() };
        let text = render_lags(&members, &standing);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let lag = |id, lag| format!("{FOLLOWER_LAG}{{follower=\"{id}\"}} {lag}");
        assert_eq!(lines, [lag(2, 2), lag(3, 10)], "one that has not answered lacks all");
        standing.is_leader = false;
        assert_eq!(render_lags(&members, &standing), "");
    }

    #[test]
    fn the_page_of_the_server_lists_each_metric() {
        let page = std::fs::read_to_string("../../docs/server.md").unwrap();
        for (name, _, _, help) in LIST {
            assert!(page.contains(&format!("| `{name}`")), "{name}: {help}");
        }
        assert_eq!(page.matches("| `seawall_").count(), LIST.len());
    }
}
