//! `Own`: what a node is, as it tells other nodes, and for whom it takes a message.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use seawall_proto::admin::v1 as admin;
use seawall_proto::raft::v1 as wire;

use crate::identity::{Identity, IdentityError, JudgedBy};
use crate::node::GROUP;

/// The identity of a node that runs. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Own(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    addr: String,
    identity: Mutex<Identity>,
    /// Held during a change, so that changes follow one another on the disk, too.
    changing: tokio::sync::Mutex<()>,
}

/// Why a message of another node is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotForUs {
    #[error(
        "node {node_id} belongs to cluster {cluster}, and not to {theirs}: give all nodes of a group \
         the same setting `cluster`, and nodes of different groups different ones"
    )]
    OtherCluster { node_id: u64, cluster: String, theirs: String },
    #[error(
        "node {node_id} belongs to another group that is named {cluster}, too: correct the seeds"
    )]
    OtherGroup { node_id: u64, cluster: String },
    #[error(
        "this is node {node_id} with the log {log_id}, and not the one that is asked for: its \
         directory was emptied, or another node has the address of a member"
    )]
    OtherLog { node_id: u64, log_id: String },
    #[error(
        "the limits of the nodes differ: node {node_id} has limits.streams = {}, limits.producers = \
         {}, limits.cursors = {}: give all nodes the same ones",
        limits.streams, limits.producers, limits.cursors
    )]
    OtherLimits { node_id: u64, limits: JudgedBy },
    #[error("the message does not say from whom it is")]
    NoHeader,
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Own {
    /// The identity of the directory `dir` of a node that is found at `addr`.
    pub(crate) fn new(identity: Identity, dir: PathBuf, addr: String) -> Own {
        let changing = tokio::sync::Mutex::new(());
        Own(Arc::new(Inner { dir, addr, identity: Mutex::new(identity), changing }))
    }

    pub(crate) fn addr(&self) -> &str {
        &self.0.addr
    }

    pub(crate) fn identity(&self) -> Identity {
        self.lock().clone()
    }

    pub(crate) fn node_id(&self) -> u64 {
        self.lock().node_id
    }

    /// Returns what the node tells a group that it wants to join.
    pub(crate) fn applicant(&self) -> admin::Applicant {
        let identity = self.lock();
        admin::Applicant {
            cluster: identity.cluster.clone(),
            node_id: identity.node_id,
            log_id: identity.log_id.clone(),
            cluster_id: identity.cluster_id.clone(),
            limits: Some(to_limits(identity.limits)),
        }
    }

    /// Returns what the node tells another one when it asks what that one is.
    pub(crate) fn introduction(&self) -> wire::IntroduceRequest {
        let Identity { node_id, log_id, .. } = self.identity();
        let addr = self.0.addr.clone();
        let sender = Some(wire::PeerNode { node_id, addr, log_id, is_leaving: false });
        wire::IntroduceRequest { sender }
    }

    /// Returns the header of a message to a member.
    pub(crate) fn header(&self, to_node: u64, to_log_id: &str) -> wire::Header {
        let identity = self.lock();
        wire::Header {
            cluster: identity.cluster.clone(),
            cluster_id: identity.cluster_id.clone(),
            group: GROUP,
            from_node: identity.node_id,
            to_node,
            to_log_id: to_log_id.to_owned(),
            limits: Some(to_limits(identity.limits)),
            from_log_id: identity.log_id.clone(),
            from_addr: self.0.addr.clone(),
        }
    }

    /// Checks that a message is for this node. A node without a group takes the sender's for ever.
    pub(crate) async fn admit(&self, header: Option<&wire::Header>) -> Result<(), NotForUs> {
        let header = header.ok_or(NotForUs::NoHeader)?;
        let cluster_id = self.check(header)?;
        if cluster_id == header.cluster_id {
            return Ok(());
        }
        let theirs = header.cluster_id.clone();
        self.change(move |identity| {
            if identity.cluster_id.is_empty() {
                identity.cluster_id = theirs;
            }
        })
        .await?;
        // Another message may have been first.
        self.check(header).map(drop)
    }

    /// Returns the group that the node belongs to. Empty if to none.
    fn check(&self, header: &wire::Header) -> Result<String, NotForUs> {
        let own = self.lock();
        let node_id = own.node_id;
        if header.cluster != own.cluster {
            let theirs = header.cluster.clone();
            return Err(NotForUs::OtherCluster { node_id, cluster: own.cluster.clone(), theirs });
        }
        let has_group = !own.cluster_id.is_empty();
        let is_other = has_group && header.cluster_id != own.cluster_id;
        if is_other || header.cluster_id.is_empty() || header.group != GROUP {
            return Err(NotForUs::OtherGroup { node_id, cluster: own.cluster.clone() });
        }
        if header.to_node != node_id || header.to_log_id != own.log_id {
            return Err(NotForUs::OtherLog { node_id, log_id: own.log_id.clone() });
        }
        if header.limits != Some(to_limits(own.limits)) {
            return Err(NotForUs::OtherLimits { node_id, limits: own.limits });
        }
        Ok(own.cluster_id.clone())
    }

    /// Notes on the disk that other nodes rely on the log. To be called after the log has something,
    /// and before another node learns of it.
    pub(crate) async fn settle(&self) -> Result<(), IdentityError> {
        if self.lock().is_initialized {
            return Ok(());
        }
        self.change(|identity| identity.is_initialized = true).await
    }

    /// Notes on the disk that a committed entry has made this node a member.
    pub(crate) async fn note_member(&self) -> Result<(), IdentityError> {
        if self.lock().was_member {
            return Ok(());
        }
        self.change(|identity| identity.was_member = true).await
    }

    /// Changes the identity, on the disk first. Goes on after its caller is gone: two that write at
    /// once would leave a damaged file, and what is on the disk must be what the node knows.
    pub(crate) async fn change(
        &self,
        change: impl FnOnce(&mut Identity) + Send + 'static,
    ) -> Result<(), IdentityError> {
        let own = self.clone();
        let changed = tokio::spawn(async move {
            let _changing = own.0.changing.lock().await;
            let mut identity = own.identity();
            change(&mut identity);
            let dir = own.0.dir.clone();
            let written = tokio::task::spawn_blocking(move || {
                identity.write(&dir)?;
                Ok(identity)
            });
            let identity = written.await.map_err(|error| own.not_written(error))??;
            *own.lock() = identity;
            Ok(())
        });
        changed.await.map_err(|error| self.not_written(error))?
    }

    fn not_written(&self, error: tokio::task::JoinError) -> IdentityError {
        let source = std::io::Error::other(error);
        IdentityError::Io { operation: "write", path: self.0.dir.clone(), source }
    }

    fn lock(&self) -> MutexGuard<'_, Identity> {
        self.0.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn to_limits(limits: JudgedBy) -> admin::GroupLimits {
    admin::GroupLimits {
        streams: limits.streams as u64,
        producers: limits.producers as u64,
        cursors: limits.cursors as u64,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const LIMITS: JudgedBy = JudgedBy { streams: 1, producers: 2, cursors: 3 };

    fn own(dir: &std::path::Path, id: u64) -> Own {
        let identity = Identity::new("blue", id, LIMITS).unwrap();
        Own::new(identity, dir.to_owned(), format!("node-{id}:7000"))
    }

    #[tokio::test]
    async fn a_node_belongs_to_the_first_group_that_writes_to_it_and_knows_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let receiver = own(dir.path(), 2);
        let sender = own(dir.path(), 1);
        let log_id = receiver.identity().log_id;
        let blue = wire::Header { cluster_id: "first".into(), ..sender.header(2, &log_id) };
        // Each part that differs is refused, and none of these makes the node belong to a group.
        type Change = fn(&mut wire::Header);
        let changes: [(&str, Change); 5] = [
            ("and not to red", |header| header.cluster = "red".into()),
            ("another group", |header| header.group = 7),
            ("another group", |header| header.cluster_id.clear()),
            ("emptied", |header| header.to_log_id = "other".into()),
            ("limits", |header| header.limits = None),
        ];
        for (part, change) in changes {
            let mut header = blue.clone();
            change(&mut header);
            let text = receiver.admit(Some(&header)).await.unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
        assert!(receiver.admit(None).await.is_err());
        assert_eq!(receiver.identity().cluster_id, "");

        receiver.admit(Some(&blue)).await.unwrap();
        receiver.admit(Some(&blue)).await.unwrap();
        let second = wire::Header { cluster_id: "second".into(), ..blue };
        let error = receiver.admit(Some(&second)).await.unwrap_err();
        assert!(matches!(error, NotForUs::OtherGroup { .. }), "{error}");

        receiver.settle().await.unwrap();
        let log = dir.path().join("log");
        std::fs::create_dir(&log).unwrap();
        std::fs::write(log.join("wal-000001.log"), b"x").unwrap();
        let found = Identity::check(dir.path(), &log, "blue", 2).unwrap().unwrap();
        assert_eq!(found, receiver.identity(), "what the node knows is on the disk");
        assert!(found.is_initialized);
        assert_eq!(found.cluster_id, "first");
    }

    #[tokio::test]
    async fn a_change_that_has_begun_ends_after_its_caller_is_gone() {
        // Method: a call that is given up once it has begun, as after the time of a message is over.
        // A second one finds what the first has changed.
        let dir = tempfile::tempdir().unwrap();
        let own = own(dir.path(), 1);
        let first = own.change(|identity| identity.cluster_id = "g".to_owned());
        assert!(first.now_or_never().is_none(), "it has begun");
        own.change(|identity| identity.is_initialized = true).await.unwrap();
        assert_eq!(own.identity().cluster_id, "g");
        let log = dir.path().join("log");
        std::fs::create_dir(&log).unwrap();
        std::fs::write(log.join("wal-000001.log"), b"x").unwrap();
        let found = Identity::check(dir.path(), &log, "blue", 1).unwrap().unwrap();
        assert_eq!(found, own.identity());
    }
}
