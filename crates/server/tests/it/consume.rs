//! What `Consume` and `ConsumeStream` promise.

use std::time::Duration;

use seawall_proto::admin::v1 as admin;
use seawall_proto::log::v1 as log;
use tokio::time::timeout;
use tonic::Code;

use crate::common::{batch, config, from, one, read_all, refused, run, start, values};

fn start_at(from: log::start::From) -> Option<log::Start> {
    Some(log::Start { from: Some(from) })
}

#[test]
fn a_consumer_waits_at_the_end_and_wakes_on_commit() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let request = log::ConsumeRequest::default();
        let mut answers = client.consume_stream(request).await.unwrap().into_inner();
        let nothing = timeout(Duration::from_millis(200), answers.message()).await;
        assert!(nothing.is_err(), "it waits: {nothing:?}");
        for (offset, value) in ["a", "b", "c"].into_iter().enumerate() {
            client.produce(one("", value)).await.unwrap();
            let answer = answers.message().await.unwrap().unwrap();
            let record = answer.record.unwrap();
            assert_eq!(record.offset, offset as u64);
            assert_eq!(record.value, value);
            assert_eq!(answer.next_offset, offset as u64 + 1);
        }
        server.stop().await.unwrap();
    });
}

#[test]
fn a_consumer_starts_where_it_says() {
    run(async {
        use log::start::From;
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let mut admin = server.admin().await;
        let mut times = Vec::new();
        for value in ["a", "b", "c", "d"] {
            let answer = client.produce(one("", value)).await.unwrap().into_inner();
            times.push(answer.timestamp_ms);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let trim = admin::TrimRequest { stream: String::new(), before_offset: 1 };
        admin.trim(trim).await.unwrap();
        let commit =
            admin::CommitCursorRequest { stream: String::new(), cursor: "mine".into(), offset: 3 };
        admin.commit_cursor(commit).await.unwrap();
        for (from_start, expected) in [
            (From::Offset(2), &["c", "d"][..]),
            (From::Earliest(log::Earliest {}), &["b", "c", "d"]),
            (From::Latest(log::Latest {}), &[]),
            (From::TimeMs(times[2]), &["c", "d"]),
            (From::TimeMs(times[2] + 1), &["d"]),
            (From::TimeMs(0), &["b", "c", "d"]),
            (From::TimeMs(u64::MAX), &[]),
            (From::Cursor("mine".into()), &["d"]),
            (From::Cursor("unknown".into()), &["b", "c", "d"]),
        ] {
            let request =
                log::ConsumeRequest { start: start_at(from_start.clone()), ..from("", 0) };
            let answer = client.consume(request).await.unwrap().into_inner();
            assert_eq!(values(&answer.records), expected, "{from_start:?}");
        }
        server.stop().await.unwrap();
    });
}

#[test]
fn an_offset_without_a_record_names_the_range() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let mut admin = server.admin().await;
        client.produce(batch("", &["a", "b", "c"])).await.unwrap();
        admin.trim(admin::TrimRequest { stream: String::new(), before_offset: 1 }).await.unwrap();
        for offset in [0, 4, u64::MAX] {
            let status = client.consume(from("", offset)).await.unwrap_err();
            let range = refused(status, Code::OutOfRange, "OFFSET_OUT_OF_RANGE");
            assert_eq!((range["first"].as_str(), range["next"].as_str()), ("1", "3"));
        }
        // At the end: nothing for a batch, an error for a single record.
        let answer = client.consume(from("", 3)).await.unwrap().into_inner();
        assert!(answer.records.is_empty() && answer.next_offset == 3 && answer.end_offset == 3);
        let single = log::ConsumeRequest { offset: 3, ..Default::default() };
        let status = client.consume(single.clone()).await.unwrap_err();
        refused(status, Code::OutOfRange, "OFFSET_OUT_OF_RANGE");
        // Unless it waits, and a record comes.
        let waits = log::ConsumeRequest { max_wait_ms: 20_000, ..single };
        let mut other = client.clone();
        let waiting = tokio::spawn(async move { other.consume(waits).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.produce(one("", "d")).await.unwrap();
        let record = waiting.await.unwrap().unwrap().into_inner().record.unwrap();
        assert_eq!((record.offset, &record.value[..]), (3, &b"d"[..]));
        server.stop().await.unwrap();
    });
}

#[test]
fn a_batch_keeps_its_bytes_and_a_large_record_still_comes() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        for size in [10, 100, 5_000, 200_000, 10, 900_000, 10] {
            client.produce(one("", vec![7; size])).await.unwrap();
        }
        for max_bytes in [1, 200, 6_000, 300_000, u32::MAX] {
            let mut offset = 0;
            while offset < 7 {
                let request = log::ConsumeRequest { max_bytes, ..from("", offset) };
                let answer = client.consume(request).await.unwrap().into_inner();
                let bytes: usize = answer.records.iter().map(|record| record.value.len()).sum();
                assert!(!answer.records.is_empty());
                let is_bounded = bytes <= (max_bytes as usize).min(1 << 20);
                assert!(is_bounded || answer.records.len() == 1, "{bytes} of {max_bytes}");
                assert_eq!(answer.records[0].offset, offset);
                offset = answer.next_offset;
            }
        }
        server.stop().await.unwrap();
    });
}

#[test]
fn a_linearizable_read_sees_what_was_acknowledged_before_it() {
    // Method: one client writes, another reads after each answer, also right after a restart.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..5u64 {
            let server = start(config(dir.path())).await;
            let mut admin = server.admin().await;
            let request = admin::OffsetsRequest::default();
            let next = admin.offsets(request.clone()).await.unwrap().into_inner().next_offset;
            assert_eq!(next, round * 20, "all of the last round");
            let mut client = server.log().await;
            for number in 0..20 {
                let offset = client.produce(one("", "x")).await.unwrap().into_inner().offset;
                let next = admin.offsets(request.clone()).await.unwrap().into_inner().next_offset;
                assert_eq!((offset, next), (round * 20 + number, offset + 1));
            }
            server.stop().await.unwrap();
        }
    });
}

#[test]
fn at_least_waits_for_the_offset_or_says_that_it_did_not_come() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let request = log::ConsumeRequest {
            consistency: log::Consistency::AtLeast.into(),
            at_least_offset: 2,
            max_wait_ms: 200,
            ..from("", 0)
        };
        let status = client.consume(request.clone()).await.unwrap_err();
        refused(status, Code::DeadlineExceeded, "TIMED_OUT");
        let request = log::ConsumeRequest { max_wait_ms: 20_000, ..request };
        let mut other = client.clone();
        let waiting = tokio::spawn(async move { other.consume(request).await });
        client.produce(one("", "a")).await.unwrap();
        client.produce(one("", "b")).await.unwrap();
        let answer = waiting.await.unwrap().unwrap().into_inner();
        assert_eq!(values(&answer.records), ["a", "b"]);
        server.stop().await.unwrap();
    });
}

#[test]
fn consumers_and_producers_end_with_the_server() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let mut answers =
            client.consume_stream(log::ConsumeRequest::default()).await.unwrap().into_inner();
        let requests = futures_util::stream::pending::<log::ProduceRequest>();
        let mut produced = client.produce_stream(requests).await.unwrap().into_inner();
        let waits = log::ConsumeRequest { max_wait_ms: 60_000, ..from("", 0) };
        let mut other = client.clone();
        let waiting = tokio::spawn(async move { other.consume(waits).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let stopping = tokio::spawn(server.stop());
        for status in [
            answers.message().await.unwrap_err(),
            produced.message().await.unwrap_err(),
            waiting.await.unwrap().unwrap_err(),
        ] {
            refused(status, Code::Unavailable, "STOPPING");
        }
        stopping.await.unwrap().unwrap();
    });
}

#[test]
fn consumers_of_a_deleted_stream_learn_it() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let mut admin = server.admin().await;
        let create = admin::CreateStreamRequest { stream: "s".into(), limits: None };
        admin.create_stream(create).await.unwrap();
        client.produce(one("s", "a")).await.unwrap();
        let request = log::ConsumeRequest { stream: "s".into(), ..Default::default() };
        let mut answers = client.consume_stream(request).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap();
        admin.delete_stream(admin::DeleteStreamRequest { stream: "s".into() }).await.unwrap();
        let status = answers.message().await.unwrap_err();
        refused(status, Code::NotFound, "NO_SUCH_STREAM");
        server.stop().await.unwrap();
    });
}

#[test]
fn a_consumer_ends_with_its_stream_even_if_there_is_another_one_of_the_name() {
    // Method: the consumer does not read, so the server stops in the middle. Meanwhile the stream
    // is deleted, and one of the same name gets as many records.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let mut admin = server.admin().await;
        let create = admin::CreateStreamRequest { stream: "s".into(), limits: None };
        admin.create_stream(create.clone()).await.unwrap();
        for _ in 0..20 {
            client.produce(one("s", vec![b'o'; 200 << 10])).await.unwrap();
        }
        let request = log::ConsumeRequest { max_bytes: 1, ..from("s", 0) };
        let mut answers = client.consume_stream(request).await.unwrap().into_inner();
        assert_eq!(answers.message().await.unwrap().unwrap().next_offset, 1);
        admin.delete_stream(admin::DeleteStreamRequest { stream: "s".into() }).await.unwrap();
        admin.create_stream(create).await.unwrap();
        for _ in 0..20 {
            client.produce(one("s", "new")).await.unwrap();
        }
        let status = loop {
            match answers.message().await {
                Ok(answer) => {
                    let records = answer.unwrap().records;
                    assert!(records[0].value.starts_with(b"oo"), "it is of the other stream");
                }
                Err(status) => break status,
            }
        };
        refused(status, Code::NotFound, "NO_SUCH_STREAM");
        server.stop().await.unwrap();
    });
}

#[test]
fn a_time_is_the_time_of_the_append() {
    // Method: producers give their own times to records, in no order.
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let mut times = Vec::new();
        for own_ms in [u64::MAX, 5, 1] {
            let mut request = one("", own_ms.to_string());
            request.record.as_mut().unwrap().timestamp_ms = own_ms;
            times.push(client.produce(request).await.unwrap().into_inner().timestamp_ms);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for (time_ms, offset) in [(times[1], 1), (times[2], 2), (times[2] + 1, 3)] {
            let request = log::ConsumeRequest {
                start: start_at(log::start::From::TimeMs(time_ms)),
                ..from("", 0)
            };
            let answer = client.consume(request).await.unwrap().into_inner();
            let first = answer.records.first().map_or(answer.next_offset, |record| record.offset);
            assert_eq!(first, offset);
        }
        server.stop().await.unwrap();
    });
}

#[test]
fn a_stream_with_few_records_among_many_comes_in_parts() {
    // Method: each record stands in an entry of its own, between entries of 1 MiB.
    run(async {
        const RECORDS: usize = 12;
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut client = server.log().await;
        let create = admin::CreateStreamRequest { stream: "s".into(), limits: None };
        server.admin().await.create_stream(create).await.unwrap();
        for number in 0..RECORDS {
            client.produce(one("s", number.to_string())).await.unwrap();
            client.produce(one("", vec![0; 1 << 20])).await.unwrap();
        }
        let first = client.consume(from("s", 0)).await.unwrap().into_inner();
        assert!((1..RECORDS).contains(&first.records.len()), "{}", first.records.len());
        assert_eq!(read_all(&mut client, "s").await.len(), RECORDS);
        server.stop().await.unwrap();
    });
}

#[test]
fn streams_do_not_mix_and_each_consumer_sees_its_own_in_order() {
    // Method: eight producers write to four streams at once; a consumer per stream reads along.
    run(async {
        const EACH: usize = 200;
        let dir = tempfile::tempdir().unwrap();
        let server = start(config(dir.path())).await;
        let mut admin = server.admin().await;
        let client = server.log().await;
        let mut producers = Vec::new();
        let mut consumers = Vec::new();
        for stream in ["s0", "s1", "s2", "s3"] {
            let create = admin::CreateStreamRequest { stream: stream.into(), limits: None };
            admin.create_stream(create).await.unwrap();
            for writer in 0..2 {
                let mut client = client.clone();
                producers.push(tokio::spawn(async move {
                    for number in 0..EACH {
                        let value = format!("{stream} {writer} {number}");
                        client.produce(one(stream, value)).await.unwrap();
                    }
                }));
            }
            let mut client = client.clone();
            consumers.push(tokio::spawn(async move {
                let request = log::ConsumeRequest { max_bytes: 4_096, ..from(stream, 0) };
                let mut answers = client.consume_stream(request).await.unwrap().into_inner();
                let mut records = Vec::new();
                while records.len() < 2 * EACH {
                    records.extend(answers.message().await.unwrap().unwrap().records);
                }
                let mut next = [0, 0];
                for (record, offset) in records.iter().zip(0u64..) {
                    assert_eq!(record.offset, offset);
                    let text = String::from_utf8(record.value.to_vec()).unwrap();
                    let words: Vec<&str> = text.split(' ').collect();
                    assert_eq!(words[0], stream);
                    let writer: usize = words[1].parse().unwrap();
                    assert_eq!(words[2], next[writer].to_string());
                    next[writer] += 1;
                }
            }));
        }
        for task in producers.into_iter().chain(consumers) {
            task.await.unwrap();
        }
        let mut client = client;
        assert_eq!(read_all(&mut client, "s0").await.len(), 2 * EACH);
        server.stop().await.unwrap();
    });
}
