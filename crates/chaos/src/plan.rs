//! What is done to the cluster, and when. The same seed gives the same plan. What it meets depends
//! on the machine's clock too: a plan names the leader, and not a node.

use std::fmt;
use std::str::FromStr;

use seawall_testkit::Dice;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// SIGKILL. The node starts again later.
    Kill,
    /// SIGKILL, and a start at once: the node is back within a heartbeat.
    Restart,
    /// SIGTERM: an end in order, which writes a checkpoint.
    Stop,
    /// SIGSTOP for two election timeouts.
    Pause,
    /// No link between a node and the others. Clients still reach it.
    Isolate,
    /// One node reaches all, the others only that one.
    Bridge,
    /// A node hears nothing, and is heard; or the other way round.
    OneWay,
    /// Links are slow.
    Delay,
    /// Links lose packets.
    Loss,
    /// The links of clients stall or break: answers are lost, and requests repeated.
    Clients,
    /// A node loses its power.
    Power,
    /// All nodes lose their power.
    PowerAll,
    /// A write fails with EIO.
    EioWrite,
    /// A sync fails with EIO, and what it should have made durable is lost with the next power cut.
    EioSync,
    /// A write fails with ENOSPC.
    Enospc,
    /// The disk is full for a while.
    Full,
    /// Each sync takes 500 ms.
    SlowSync,
    /// A bit of the log is flipped, or its end is cut off.
    DamageLog,
    /// The same with CURRENT.
    DamageCurrent,
    /// The same with a checkpoint of the index.
    DamageIndex,
    /// A node is added, and an old one leaves.
    Members,
    /// A node loses its directory. It is refused under its old id, and another one takes its place.
    Wipe,
    /// A node's clock jumps.
    Clock,
    /// The leader is cut off. As soon as there is another one, the node that voted for it loses its
    /// power, the new leader is cut off instead, and the old one comes back.
    Election,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 24] = [
        Kind::Kill,
        Kind::Restart,
        Kind::Stop,
        Kind::Pause,
        Kind::Isolate,
        Kind::Bridge,
        Kind::OneWay,
        Kind::Delay,
        Kind::Loss,
        Kind::Clients,
        Kind::Power,
        Kind::PowerAll,
        Kind::EioWrite,
        Kind::EioSync,
        Kind::Enospc,
        Kind::Full,
        Kind::SlowSync,
        Kind::DamageLog,
        Kind::DamageCurrent,
        Kind::DamageIndex,
        Kind::Members,
        Kind::Wipe,
        Kind::Clock,
        Kind::Election,
    ];

    /// Returns the name that the command takes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::Restart => "restart",
            Kind::Stop => "stop",
            Kind::Pause => "pause",
            Kind::Isolate => "isolate",
            Kind::Bridge => "bridge",
            Kind::OneWay => "one-way",
            Kind::Delay => "delay",
            Kind::Loss => "loss",
            Kind::Clients => "clients",
            Kind::Power => "power",
            Kind::PowerAll => "power-all",
            Kind::EioWrite => "eio-write",
            Kind::EioSync => "eio-sync",
            Kind::Enospc => "enospc",
            Kind::Full => "full",
            Kind::SlowSync => "slow-sync",
            Kind::DamageLog => "damage-log",
            Kind::DamageCurrent => "damage-current",
            Kind::DamageIndex => "damage-index",
            Kind::Members => "members",
            Kind::Wipe => "wipe",
            Kind::Clock => "clock",
            Kind::Election => "election",
        }
    }

    /// Whether it needs a disk of ours below the node.
    #[must_use]
    pub fn needs_disk(self) -> bool {
        matches!(
            self,
            Kind::Power
                | Kind::PowerAll
                | Kind::EioWrite
                | Kind::EioSync
                | Kind::Enospc
                | Kind::Full
                | Kind::SlowSync
                | Kind::Election
        )
    }

    /// Milliseconds for which it lasts: the least, and the most.
    fn duration_ms(self) -> (u64, u64) {
        match self {
            Kind::Restart | Kind::EioWrite | Kind::EioSync | Kind::Enospc => (0, 1),
            Kind::Kill | Kind::Stop | Kind::Power | Kind::PowerAll => (100, 1500),
            // Two election timeouts.
            Kind::Pause => (1200, 2600),
            Kind::Full => (500, 4000),
            _ => (800, 4000),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        Kind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            format!("there is no fault {text}: there are {}", names.join(", "))
        })
    }
}

/// Which node a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The one that leads.
    Leader,
    /// One of the members, by a number that is divided by their count.
    Any(u64),
}

/// A fault in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// When, in milliseconds after the first acknowledgement.
    pub at_ms: u64,
    /// How long.
    pub duration_ms: u64,
    /// What.
    pub kind: Kind,
    /// On which node.
    pub target: Target,
    /// Decides the rest, by the fault's own dice.
    pub seed: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { at_ms, duration_ms, kind, target, .. } = self;
        write!(formatter, "{at_ms} ms: {kind} of {target:?} for {duration_ms} ms")
    }
}

/// Which kinds a run mixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mix {
    /// These.
    These(Vec<Kind>),
    /// All.
    All,
    /// One kind: the seeds take turns.
    Alone,
    /// Two kinds: the seeds go through the pairs.
    Pairs,
}

impl Mix {
    /// Returns the kinds of a run.
    #[must_use]
    pub fn kinds(&self, seed: u64) -> Vec<Kind> {
        let count = Kind::ALL.len() as u64;
        let kind = |index: u64| Kind::ALL[usize::try_from(index % count).unwrap_or(0)];
        match self {
            Mix::These(kinds) => kinds.clone(),
            Mix::All => Kind::ALL.to_vec(),
            Mix::Alone => vec![kind(seed)],
            Mix::Pairs => {
                // In each round of seeds, each kind comes with another one.
                let apart = 1 + seed / count % (count - 1);
                vec![kind(seed), kind(seed + apart)]
            }
        }
    }
}

/// How long records are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kept {
    /// In one of three runs, a few seconds; otherwise for ever.
    #[default]
    Drawn,
    /// A few seconds.
    Short,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Decides everything below.
    pub seed: u64,
    /// How many nodes there are at first.
    pub nodes: u64,
    /// How long faults are injected.
    pub seconds: u64,
    /// In the order of their times.
    pub faults: Vec<Fault>,
    /// How long records are kept, in milliseconds; `None`: for ever.
    pub retention_ms: Option<u64>,
    /// What a sync takes at any time, in microseconds.
    pub sync_us: u64,
    /// What a record has beside its name.
    pub filler_bytes: u64,
}

/// The faults begin after so long, so that there is a leader.
const QUIET_MS: u64 = 500;

impl Plan {
    /// Makes the plan of a seed.
    #[must_use]
    pub fn new(seed: u64, nodes: u64, seconds: u64, kinds: &[Kind], kept: Kept) -> Plan {
        let mut dice = Dice::part(seed, 1);
        // Records that go are needed for purges, and for nodes that get a snapshot.
        let drawn = dice.once_in(3);
        let short_ms = 4000 + dice.below(4000);
        let is_short = kept == Kept::Short || kept == Kept::Drawn && drawn;
        let retention_ms = is_short.then_some(short_ms);
        let sync_us = *dice.pick(&[0, 500, 2000, 5000]);
        let filler_bytes = if retention_ms.is_some() { 3000 } else { *dice.pick(&[0, 200, 1000]) };
        let gaps_ms = *dice.pick(&[(100, 700), (300, 2000), (1000, 4000)]);
        let mut faults = Vec::new();
        let mut at_ms = QUIET_MS;
        while at_ms < seconds * 1000 && !kinds.is_empty() {
            let kind = *dice.pick(kinds);
            let (least, most) = kind.duration_ms();
            let duration_ms = least + dice.below(most - least);
            let target = if dice.coin() { Target::Leader } else { Target::Any(dice.below(60)) };
            faults.push(Fault { at_ms, duration_ms, kind, target, seed: dice.roll() });
            at_ms += gaps_ms.0 + dice.below(gaps_ms.1 - gaps_ms.0);
        }
        Plan { seed, nodes, seconds, faults, retention_ms, sync_us, filler_bytes }
    }

    /// Returns whether a node's clock jumps in it.
    #[must_use]
    pub fn has_clock(&self) -> bool {
        self.faults.iter().any(|fault| fault.kind == Kind::Clock)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { seed, nodes, seconds, faults, retention_ms, sync_us, filler_bytes } = self;
        writeln!(
            formatter,
            "plan of seed {seed}: {nodes} nodes, {seconds} s, {} faults, records kept for \
             {retention_ms:?} ms, {filler_bytes} bytes of filler, a sync takes {sync_us} us",
            faults.len()
        )?;
        faults.iter().try_for_each(|fault| writeln!(formatter, "  {fault}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_gives_the_same_plan_and_another_seed_another_one() {
        let plan = |seed| Plan::new(seed, 3, 30, &Kind::ALL, Kept::Drawn).to_string();
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
        let faults = Plan::new(7, 3, 30, &Kind::ALL, Kept::Drawn).faults;
        assert!(faults.len() > 8, "{}", faults.len());
        assert!(faults.windows(2).all(|pair| pair[0].at_ms < pair[1].at_ms));
    }

    #[test]
    fn the_seeds_go_through_all_kinds_and_pairs() {
        let count = Kind::ALL.len();
        let alone: BTreeSet<Vec<Kind>> =
            (0..count as u64).map(|seed| Mix::Alone.kinds(seed)).collect();
        assert_eq!(alone.len(), count);
        let pairs: BTreeSet<Vec<Kind>> = (0..(count * (count - 1)) as u64)
            .map(|seed| {
                let mut kinds = Mix::Pairs.kinds(seed);
                kinds.sort();
                kinds
            })
            .collect();
        assert!(pairs.iter().all(|pair| pair[0] != pair[1]));
        assert_eq!(pairs.len(), count * (count - 1) / 2);
    }

    #[test]
    fn each_kind_has_a_name_of_its_own() {
        for kind in Kind::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!("kil".parse::<Kind>().is_err());
    }
}
