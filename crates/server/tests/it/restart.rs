//! What a node finds when it starts again, and what it refuses.

use std::fs;
use std::path::Path;

use seawall_proto::admin::v1 as admin;
use seawall_proto::log::v1 as log;
use seawall_server::{IdentityError, NodeError, OpenError, Server, ServerError};

use crate::common::{batch, config, one, read_all, refused, run, start, values};

/// Starts a server that must not start, and returns why.
async fn refusal(config: seawall_server::Config) -> ServerError {
    let server = Server::bind(config).await.unwrap();
    let ready = server.ready();
    let (_stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let error = server
        .run(async {
            let _never = stopped.await;
        })
        .await
        .unwrap_err();
    assert!(!ready.await, "it was never ready");
    error
}

/// Starts a node, produces, and stops it.
async fn filled(dir: &Path, values: &[&str]) {
    let server = start(config(dir)).await;
    server.log().await.produce(batch("", values)).await.unwrap();
    server.stop().await.unwrap();
}

fn checkpoints(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir.join("group-0/index")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn everything_is_there_after_a_restart() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let mut admin = server.admin().await;
        let limits = Some(admin::Limits { records: 100, ..Default::default() });
        let create = admin::CreateStreamRequest { stream: "s".into(), limits };
        admin.create_stream(create).await.unwrap();
        client.produce(batch("s", &["a", "b", "c"])).await.unwrap();
        let commit =
            admin::CommitCursorRequest { stream: "s".into(), cursor: "mine".into(), offset: 2 };
        admin.commit_cursor(commit).await.unwrap();
        admin.trim(admin::TrimRequest { stream: "s".into(), before_offset: 1 }).await.unwrap();
        let list = admin::ListStreamsRequest { stream: "s".into() };
        let before = admin.list_streams(list.clone()).await.unwrap().into_inner();
        server.stop().await.unwrap();

        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let after = server.admin().await.list_streams(list).await.unwrap().into_inner();
        assert_eq!(after, before);
        assert_eq!(values(&read_all(&mut client, "s").await), ["b", "c"]);
        assert_eq!(client.produce(one("s", "d")).await.unwrap().into_inner().offset, 3);
        server.stop().await.unwrap();
    });
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), &["a"]).await;
        filled(dir.path(), &["b"]).await;
        let paths = checkpoints(dir.path());
        assert!(paths.len() >= 2, "{paths:?}");
        let newest = paths.last().unwrap();
        let mut bytes = fs::read(newest).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(newest, bytes).unwrap();
        let server = start(config(dir.path())).await;
        assert_eq!(values(&read_all(&mut server.log().await, "default").await), ["a", "b"]);
        server.stop().await.unwrap();

        // Nothing is purged, so the log alone is enough.
        fs::remove_dir_all(dir.path().join("group-0/index")).unwrap();
        let server = start(config(dir.path())).await;
        assert_eq!(values(&read_all(&mut server.log().await, "default").await), ["a", "b"]);
        server.stop().await.unwrap();
    });
}

#[test]
fn a_node_without_its_log_does_not_start() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), &["a"]).await;
        fs::remove_dir_all(dir.path().join("group-0/log")).unwrap();
        let error = refusal(config(dir.path())).await;
        let is_gone =
            matches!(&error, ServerError::Node(NodeError::Identity(IdentityError::LogGone { .. })));
        assert!(is_gone, "{error}");
        assert!(!dir.path().join("group-0/log").exists(), "it makes no new log");
    });
}

#[test]
fn a_log_that_is_older_than_the_index_does_not_start() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), &["a"]).await;
        let log = dir.path().join("group-0/log");
        let old = dir.path().join("old");
        copy_dir(&log, &old);
        filled(dir.path(), &["b", "c"]).await;
        fs::remove_dir_all(&log).unwrap();
        copy_dir(&old, &log);
        let error = refusal(config(dir.path())).await;
        let is_short =
            matches!(&error, ServerError::Node(NodeError::Open(OpenError::LogTooShort { .. })));
        assert!(is_short, "{error}");
    });
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_directory_starts_under_its_own_id_only() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), &["a"]).await;
        let mut other = config(dir.path());
        other.node_id = 2;
        let error = refusal(other).await.to_string();
        assert!(error.contains("belongs to node 1"), "{error}");
        let mut other = config(dir.path());
        other.cluster = "other".into();
        let error = refusal(other).await.to_string();
        assert!(error.contains("belongs to node 1"), "{error}");
        // A refused start changes nothing.
        filled(dir.path(), &["b"]).await;
    });
}

#[test]
fn an_empty_directory_needs_a_word_and_stays_empty_without_it() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.bootstrap_expect = 0;
        let error = refusal(config).await.to_string();
        assert!(error.contains("seawalld init"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    });
}

#[test]
fn a_second_server_on_the_directory_is_refused_and_the_first_goes_on() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        client.produce(one("", "a")).await.unwrap();
        let error = refusal(config(dir.path())).await.to_string();
        assert!(error.contains("lock") || error.contains("in use"), "{error}");
        client.produce(one("", "b")).await.unwrap();
        assert_eq!(values(&read_all(&mut client, "default").await), ["a", "b"]);
        server.stop().await.unwrap();
        filled(dir.path(), &["c"]).await;
    });
}

#[test]
fn a_crash_of_the_first_start_is_made_good() {
    // Method: the states that a crash can leave between the steps of the first start.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let new = "version = 1\ncluster = \"seawall\"\ncluster_id = \"\"\nnode_id = 1\n\
            log_id = \"0a\"\nis_initialized = false\n\
            [limits]\nstreams = 1000\nproducers = 10000\ncursors = 1000\n";
        // The directories were made, and nothing else.
        fs::create_dir_all(dir.path().join("group-0/log")).unwrap();
        filled(dir.path(), &["a"]).await;
        // A log with entries is another matter: it is another node's, or has lost its name.
        fs::remove_file(dir.path().join("node.toml")).unwrap();
        let error = refusal(config(dir.path())).await;
        let is_unnamed =
            matches!(&error, ServerError::Node(NodeError::Identity(IdentityError::Unnamed { .. })));
        assert!(is_unnamed, "{error}");

        // The identity was written, and the log was made and has no entry.
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node.toml"), new).unwrap();
        fs::create_dir_all(dir.path().join("group-0")).unwrap();
        let log = dir.path().join("group-0/log");
        seawall::Options::new().open(&log).unwrap().close().unwrap();
        filled(dir.path(), &["a"]).await;
        // The group was made, and the identity does not say so yet.
        let name = dir.path().join("node.toml");
        let text = fs::read_to_string(&name).unwrap();
        let before = text.replace("is_initialized = true", "is_initialized = false");
        assert_ne!(before, text);
        fs::write(&name, before).unwrap();
        let server = start(config(dir.path())).await;
        assert_eq!(values(&read_all(&mut server.log().await, "default").await), ["a"]);
        server.stop().await.unwrap();
        // It notes that it is a member a little after it serves.
        let unnoted = |text: String| text.replace("was_member = true", "was_member = false");
        assert_eq!(unnoted(fs::read_to_string(&name).unwrap()), unnoted(text));
    });
}

#[test]
fn limits_that_entries_were_judged_by_do_not_change_under_them() {
    // Method: two producers append. A copy of the directory stands for a crash: without a
    // checkpoint, its entries are judged again. By a lower limit, the second would be refused.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        for id in ["p", "q"] {
            let request = log::ProduceRequest { producer_id: id.into(), ..one("", id) };
            client.produce(request).await.unwrap();
        }
        let crashed = tempfile::tempdir().unwrap();
        fs::create_dir(crashed.path().join("group-0")).unwrap();
        for part in ["log", "index"] {
            let part = Path::new("group-0").join(part);
            copy_dir(&dir.path().join(&part), &crashed.path().join(&part));
        }
        fs::copy(dir.path().join("node.toml"), crashed.path().join("node.toml")).unwrap();
        server.stop().await.unwrap();

        let mut lower = config(crashed.path());
        lower.limits.producers = 1;
        let error = refusal(lower.clone()).await.to_string();
        assert!(error.contains("old limits"), "{error}");
        let server = start(config(crashed.path())).await;
        assert_eq!(values(&read_all(&mut server.log().await, "default").await), ["p", "q"]);
        server.stop().await.unwrap();

        // After an end in order, nothing is judged again.
        let server = start(lower.clone()).await;
        assert_eq!(values(&read_all(&mut server.log().await, "default").await), ["p", "q"]);
        let request = log::ProduceRequest { producer_id: "r".into(), ..one("", "r") };
        let status = server.log().await.produce(request).await.unwrap_err();
        refused(status, tonic::Code::ResourceExhausted, "PRODUCERS_MAX");
        server.stop().await.unwrap();
        let server = start(lower).await;
        server.stop().await.unwrap();
    });
}
