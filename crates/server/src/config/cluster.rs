//! The settings of a node among others.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::{Config, ConfigError, duration};

/// How many nodes may vote.
pub(crate) const VOTERS_MAX: usize = 5;

/// What precedes a seed that stands for each address of a name.
const DNS: &str = "dns:";

/// How the nodes of a group find out that one of them is gone.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Raft {
    /// How often the leader says that it is there. Another node must answer within this time.
    /// Default `500ms`, 10 ms to 10 s.
    #[serde(deserialize_with = "duration")]
    pub heartbeat: Duration,
    /// After so long without the leader, and at most twice that, a node stands for election.
    /// Default `2s`, at least three heartbeats.
    #[serde(deserialize_with = "duration")]
    pub election_timeout: Duration,
    /// Other ways to nodes than their addresses, as in `["2=127.0.0.1:9002"]`: for proxies. Default:
    /// none.
    pub routes: Vec<String>,
}

impl Default for Raft {
    fn default() -> Raft {
        Raft {
            heartbeat: Duration::from_millis(500),
            election_timeout: Duration::from_secs(2),
            routes: Vec::new(),
        }
    }
}

impl Raft {
    /// The longest time that a node waits before it stands for election.
    pub(crate) fn election_timeout_max(&self) -> Duration {
        self.election_timeout * 2
    }

    /// Returns the other ways, by the ids of the nodes.
    pub(crate) fn routes(&self) -> Result<BTreeMap<u64, String>, String> {
        let route = |text: &String| {
            let route = text.split_once('=').and_then(|(id, addr)| {
                is_address(addr).then_some((id.parse().ok()?, addr.to_owned()))
            });
            route.ok_or_else(|| format!("{text:?} is not NODE_ID=HOST:PORT"))
        };
        self.routes.iter().map(route).collect()
    }
}

/// Checks what the types do not.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let error = |key: &str, reason: &str| {
        Err(ConfigError::Value { source_name: key.to_owned(), reason: reason.to_owned() })
    };
    let expected = config.bootstrap_expect as usize;
    if !matches!(expected, 0 | 1 | 3 | 5) {
        return error("bootstrap_expect", "must be 0, 1, 3 or 5");
    }
    if expected > 1 && config.seeds.is_empty() {
        return error(
            "seeds",
            "is missing: with bootstrap_expect above 1, name the addresses of all nodes, as in \
             [\"a:7000\", \"b:7000\", \"c:7000\"]",
        );
    }
    for seed in &config.seeds {
        if !is_address(seed.strip_prefix(DNS).unwrap_or(seed)) {
            let reason = format!("{seed:?} is neither HOST:PORT nor dns:NAME:PORT");
            return error("seeds", &reason);
        }
    }
    if let Some(advertise) = &config.advertise
        && !is_address(advertise)
    {
        return error("advertise", &format!("{advertise:?} is not HOST:PORT"));
    }
    let Raft { heartbeat, election_timeout, .. } = &config.raft;
    if *heartbeat < Duration::from_millis(10) || *heartbeat > Duration::from_secs(10) {
        return error("raft.heartbeat", "must be 10ms to 10s");
    }
    if *election_timeout < *heartbeat * 3 {
        return error("raft.election_timeout", "must be at least three times raft.heartbeat");
    }
    if *election_timeout > Duration::from_secs(60) {
        return error("raft.election_timeout", "must be at most 60s");
    }
    if let Err(reason) = config.raft.routes() {
        return error("raft.routes", &reason);
    }
    Ok(())
}

/// Returns the addresses for which seeds stand at this moment. A name that cannot be resolved has
/// none, and is told in the log of events.
pub(crate) async fn resolve(seeds: &[String]) -> Vec<String> {
    let mut addrs = Vec::new();
    for seed in seeds {
        let Some(name) = seed.strip_prefix(DNS) else {
            addrs.push(seed.clone());
            continue;
        };
        match tokio::net::lookup_host(name).await {
            Ok(found) => addrs.extend(found.map(|addr| addr.to_string())),
            Err(error) => tracing::warn!("the seed {seed} has no address: {error}"),
        }
    }
    addrs.sort();
    addrs.dedup();
    addrs
}

fn is_address(text: &str) -> bool {
    let parts = text.rsplit_once(':');
    parts.is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(['/', ' '])
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::default();
        change(&mut config);
        check(&config).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_setting_is_named() {
        check(&Config::default()).unwrap();
        let text = refused(|config| config.bootstrap_expect = 2);
        assert!(text.contains("must be 0, 1, 3 or 5"), "{text}");
        let text = refused(|config| config.bootstrap_expect = 3);
        assert!(text.starts_with("seeds: is missing"), "{text}");
        for seed in ["a", "a:", ":1", "http://a:1", "a:0", "dns:a"] {
            let text = refused(|config| config.seeds = vec![seed.to_owned()]);
            assert!(text.contains(seed), "{text}");
        }
        let text = refused(|config| config.advertise = Some("a".to_owned()));
        assert!(text.starts_with("advertise"), "{text}");
        let text = refused(|config| config.raft.heartbeat = Duration::from_millis(1));
        assert!(text.starts_with("raft.heartbeat"), "{text}");
        let text = refused(|config| config.raft.election_timeout = Duration::from_secs(1));
        assert!(text.contains("three times"), "{text}");
        let text = refused(|config| config.raft.routes = vec!["2:a".to_owned()]);
        assert!(text.contains("NODE_ID=HOST:PORT"), "{text}");
    }

    #[tokio::test]
    async fn seeds_are_resolved_once_each() {
        let seeds = ["b:2", "a:1", "b:2", "dns:127.0.0.1:9"].map(str::to_owned);
        assert_eq!(resolve(&seeds).await, ["127.0.0.1:9", "a:1", "b:2"]);
    }
}
