//! What `Produce` and `ProduceStream` promise.

use seawall_proto::admin::v1 as admin;
use seawall_proto::log::v1 as log;
use tonic::Code;

use crate::common::{batch, config, one, read_all, record, refused, run, start, values};

#[test]
fn records_get_dense_offsets_and_come_back_whole() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let whole = log::Record {
            value: "value".into(),
            r#type: 7,
            key: "key".into(),
            headers: vec![log::Header { name: "h".into(), value: "x".into() }],
            timestamp_ms: 5,
            ..log::Record::default()
        };
        let request = log::ProduceRequest { record: Some(whole.clone()), ..Default::default() };
        assert_eq!(client.produce(request).await.unwrap().into_inner().offset, 0);
        let answer = client.produce(batch("", &["a", "b", "c"])).await.unwrap().into_inner();
        assert_eq!((answer.offset, answer.count, answer.duplicate), (1, 3, false));
        assert!(answer.timestamp_ms > 0);
        let records = read_all(&mut client, "default").await;
        assert_eq!(records[0], log::Record { offset: 0, term: records[0].term, ..whole });
        assert!(records[0].term > 0);
        assert_eq!(values(&records), ["value", "a", "b", "c"]);
        assert_eq!(records[1].timestamp_ms, answer.timestamp_ms);
        server.stop().await.unwrap();
    });
}

#[test]
fn a_retry_gets_the_first_answer_and_appends_nothing() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let numbered = |epoch, sequence, value: &str| log::ProduceRequest {
            producer_id: "p".into(),
            epoch,
            sequence,
            ..one("", value)
        };
        let first = client.produce(numbered(0, 0, "a")).await.unwrap().into_inner();
        client.produce(numbered(0, 1, "b")).await.unwrap();
        let again = client.produce(numbered(0, 0, "a")).await.unwrap().into_inner();
        assert_eq!(again, log::ProduceResponse { duplicate: true, ..first });

        let gap = client.produce(numbered(0, 3, "d")).await.unwrap_err();
        let known = refused(gap, Code::FailedPrecondition, "SEQUENCE_GAP");
        assert_eq!(known["expected"], "2");
        client.produce(numbered(1, 0, "c")).await.unwrap();
        let fenced = client.produce(numbered(0, 2, "old")).await.unwrap_err();
        let known = refused(fenced, Code::FailedPrecondition, "PRODUCER_FENCED");
        assert_eq!(known["epoch"], "1");
        let unknown = log::ProduceRequest { producer_id: "q".into(), ..numbered(0, 5, "x") };
        let unknown = client.produce(unknown).await.unwrap_err();
        refused(unknown, Code::FailedPrecondition, "PRODUCER_UNKNOWN");
        assert_eq!(values(&read_all(&mut client, "default").await), ["a", "b", "c"]);

        // The table of duplicates outlives the process.
        server.stop().await.unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let again = client.produce(numbered(1, 0, "c")).await.unwrap().into_inner();
        assert!(again.duplicate && again.offset == 2);
        server.stop().await.unwrap();
    });
}

#[test]
fn an_expected_offset_is_judged_where_offsets_are_given() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let at = |offset, value: &str| log::ProduceRequest {
            expected_offset: Some(offset),
            ..one("", value)
        };
        client.produce(at(0, "a")).await.unwrap();
        let late = client.produce(at(0, "b")).await.unwrap_err();
        assert_eq!(refused(late, Code::Aborted, "EXPECTED_OFFSET")["next"], "1");

        // Method: 16 clients want the same offset at once. One gets it.
        let attempts: Vec<_> = (0..16)
            .map(|number| {
                let mut client = client.clone();
                tokio::spawn(async move { client.produce(at(1, &number.to_string())).await })
            })
            .collect();
        let mut won = 0;
        for attempt in attempts {
            match attempt.await.unwrap() {
                Ok(answer) => {
                    assert_eq!(answer.into_inner().offset, 1);
                    won += 1;
                }
                Err(status) => {
                    refused(status, Code::Aborted, "EXPECTED_OFFSET");
                }
            }
        }
        assert_eq!(won, 1);
        assert_eq!(read_all(&mut client, "default").await.len(), 2);
        server.stop().await.unwrap();
    });
}

#[test]
fn bad_requests_are_refused_and_change_nothing() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let large = vec![0; (1 << 20) + 1];
        let half = vec![0; 600 << 10];
        for request in [
            log::ProduceRequest::default(),
            log::ProduceRequest { record: Some(record("x")), ..batch("", &["y"]) },
            one("", large),
            log::ProduceRequest {
                records: vec![record(half.clone()), record(half)],
                ..Default::default()
            },
            log::ProduceRequest { records: vec![record(""); 10_001], ..Default::default() },
            log::ProduceRequest { producer_id: "p".repeat(129), ..one("", "x") },
            log::ProduceRequest {
                record: Some(log::Record {
                    headers: vec![log::Header::default(); 50_001],
                    ..log::Record::default()
                }),
                ..Default::default()
            },
            log::ProduceRequest { sequence: 1, ..one("", "x") },
        ] {
            let status = client.produce(request).await.unwrap_err();
            refused(status, Code::InvalidArgument, "BAD_REQUEST");
        }
        let status = client.produce(one("nowhere", "x")).await.unwrap_err();
        refused(status, Code::NotFound, "NO_SUCH_STREAM");
        // The largest record fits.
        let largest = vec![1; 1 << 20];
        assert_eq!(client.produce(one("", largest.clone())).await.unwrap().into_inner().offset, 0);
        let records = read_all(&mut client, "default").await;
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].value, largest);
        server.stop().await.unwrap();
    });
}

#[test]
fn a_message_above_the_limit_ends_its_call_alone() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let status = client.produce(one("", vec![0; 8 << 20])).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
        assert_eq!(client.produce(one("", "x")).await.unwrap().into_inner().offset, 0);
        server.stop().await.unwrap();
    });
}

#[test]
fn a_stream_of_requests_is_answered_in_order_and_shares_syncs() {
    run(async {
        const REQUESTS: u64 = 500;
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        let requests = futures_util::stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|request| (request, receiver))
        });
        let sending = tokio::spawn(async move {
            for number in 0..REQUESTS {
                sender.send(one("", number.to_string())).await.unwrap();
            }
        });
        let mut answers = client.produce_stream(requests).await.unwrap().into_inner();
        for offset in 0..REQUESTS {
            assert_eq!(answers.message().await.unwrap().unwrap().offset, offset);
        }
        sending.await.unwrap();
        assert_eq!(answers.message().await.unwrap(), None, "it ends with the requests");
        let records = read_all(&mut client, "default").await;
        let expected: Vec<String> = (0..REQUESTS).map(|number| number.to_string()).collect();
        assert_eq!(values(&records), expected);
        let mut admin = server.admin().await;
        let status = admin.status(admin::StatusRequest {}).await.unwrap().into_inner();
        assert!(status.applied_index < REQUESTS / 2, "requests shared entries: {status:?}");
        server.stop().await.unwrap();
    });
}

#[test]
fn a_refused_request_ends_its_stream_after_the_answers_before_it() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let mut requests = vec![one("", "a"), one("nowhere", "b")];
        requests.extend(vec![one("", "c"); 20]);
        let requests = futures_util::stream::iter(requests);
        let mut answers = client.produce_stream(requests).await.unwrap().into_inner();
        assert_eq!(answers.message().await.unwrap().unwrap().offset, 0);
        let status = answers.message().await.unwrap_err();
        refused(status, Code::NotFound, "NO_SUCH_STREAM");
        // What came after it was not appended behind its back.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        assert_eq!(values(&read_all(&mut client, "default").await), ["a"]);
        server.stop().await.unwrap();
    });
}

#[test]
fn streams_are_made_listed_limited_and_deleted() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let mut admin = server.admin().await;
        let create = |stream: &str| admin::CreateStreamRequest {
            stream: stream.into(),
            limits: Some(admin::Limits { records: 10, ..Default::default() }),
        };
        admin.create_stream(create("orders")).await.unwrap();
        admin.create_stream(create("orders")).await.unwrap(); // A retry.
        let other = admin::CreateStreamRequest { stream: "orders".into(), limits: None };
        let status = admin.create_stream(other).await.unwrap_err();
        refused(status, Code::AlreadyExists, "STREAM_EXISTS");
        for name in ["", "a/b", "-a", &"x".repeat(129)] {
            let status = admin.create_stream(create(name)).await.unwrap_err();
            refused(status, Code::InvalidArgument, "BAD_REQUEST");
        }
        client.produce(batch("orders", &["a", "b"])).await.unwrap();
        let request = admin::CommitCursorRequest {
            stream: "orders".into(),
            cursor: "billing".into(),
            offset: 1,
        };
        admin.commit_cursor(request).await.unwrap();
        let request = admin::ListStreamsRequest { stream: "orders".into() };
        let listed = admin.list_streams(request).await.unwrap().into_inner().streams;
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].first_offset, listed[0].next_offset), (0, 2));
        assert_eq!(listed[0].cursors, [admin::Cursor { name: "billing".into(), offset: 1 }]);
        let all = admin.list_streams(admin::ListStreamsRequest::default()).await.unwrap();
        let names: Vec<String> =
            all.into_inner().streams.into_iter().map(|info| info.stream).collect();
        assert_eq!(names, ["default", "orders"]);

        let trim = admin::TrimRequest { stream: "orders".into(), before_offset: 1 };
        assert_eq!(admin.trim(trim).await.unwrap().into_inner().first_offset, 1);
        assert_eq!(values(&read_all(&mut client, "orders").await), ["b"]);
        let delete = |stream: &str| admin::DeleteStreamRequest { stream: stream.into() };
        admin.delete_stream(delete("orders")).await.unwrap();
        let status = client.produce(one("orders", "x")).await.unwrap_err();
        refused(status, Code::NotFound, "NO_SUCH_STREAM");
        let status = admin.delete_stream(delete("default")).await.unwrap_err();
        refused(status, Code::FailedPrecondition, "DEFAULT_STREAM");
        // A new stream of the name begins at 0, with nothing of the old one.
        admin.create_stream(create("orders")).await.unwrap();
        assert_eq!(client.produce(one("orders", "new")).await.unwrap().into_inner().offset, 0);
        assert_eq!(values(&read_all(&mut client, "orders").await), ["new"]);
        server.stop().await.unwrap();
    });
}
