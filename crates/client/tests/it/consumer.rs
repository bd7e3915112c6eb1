//! The consumer.

use std::time::Duration;

use seawall_client::{Error, Start};

use crate::fake::Fake;
use crate::{client, run};

async fn filled(count: u64) -> (Fake, Vec<String>) {
    let (fake, addresses) = Fake::start(2).await;
    fake.fill((0..count).map(|number| number.to_string()));
    (fake, addresses)
}

#[test]
fn broken_connections_leave_nothing_out_and_repeat_nothing() {
    // Method: 300 records; the connection breaks after each of several numbers of answers.
    run(async {
        let (fake, addresses) = filled(300).await;
        fake.lock().consume_cuts.extend([0, 3, 0, 1, 9, 2, 0, 0, 5]);
        let consumer = client(&addresses, 10_000).consumer("s").until_now();
        let mut consumer = consumer.open().await.expect("it opens");
        for number in 0..300 {
            let record = consumer.next().await.expect("it comes").expect("it is not the end");
            assert_eq!(record.offset, number);
            assert_eq!(record.value, number.to_string());
            assert_eq!(consumer.position(), Some(number + 1));
        }
        assert_eq!(consumer.next().await.expect("it ends"), None);
        assert!(fake.lock().consume_cuts.is_empty());
    });
}

#[test]
fn a_gap_is_an_error_after_the_records_before_it() {
    // Method: the server leaves out offset 10.
    run(async {
        let (fake, addresses) = filled(20).await;
        fake.lock().leaves_out = Some(10);
        let mut consumer = client(&addresses, 2_000).consumer("s").open().await.expect("it opens");
        for number in 0..10 {
            let record = consumer.next().await.expect("it comes").expect("it follows");
            assert_eq!(record.offset, number);
        }
        for _ in 0..2 {
            let error = consumer.next().await.expect_err("offset 10 is missing");
            assert!(matches!(error, Error::Contradiction { .. }), "{error}");
        }
    });
}

#[test]
fn the_end_waits_for_new_records_and_a_dropped_call_loses_none() {
    // Method: `next` is given up again and again while records come.
    run(async {
        let (fake, addresses) = filled(3).await;
        let consumer = client(&addresses, 2_000).consumer("s").start(Start::Latest);
        let mut consumer = consumer.open().await.expect("it opens");
        fake.fill(["3".to_owned()]);
        let writer = fake.clone();
        let writer = tokio::spawn(async move {
            for number in 4..40 {
                tokio::time::sleep(Duration::from_millis(3)).await;
                writer.fill([number.to_string()]);
            }
        });
        let mut expected = 3;
        while expected < 40 {
            let wait = Duration::from_millis(2);
            if let Ok(record) = tokio::time::timeout(wait, consumer.next()).await {
                let record = record.expect("it comes").expect("it follows");
                assert_eq!(record.offset, expected);
                expected += 1;
            }
        }
        writer.await.expect("no panic");
    });
}

#[test]
fn a_cursor_keeps_the_place() {
    // Method: read five records, commit, and open another consumer.
    run(async {
        let (_fake, addresses) = filled(12).await;
        let client = client(&addresses, 2_000);
        let start = Start::Cursor("c".into());
        let open = || client.consumer("s").start(start.clone()).until_now().open();
        let mut consumer = open().await.expect("it opens");
        for _ in 0..5 {
            consumer.next().await.expect("it comes").expect("it is not the end");
        }
        consumer.commit("c").await.expect("it is stored");
        let mut consumer = open().await.expect("it opens");
        let batch = consumer.next_batch().await.expect("it comes").expect("it is not the end");
        assert_eq!((batch.records[0].offset, batch.next_offset), (5, 12));
        assert_eq!(consumer.next_batch().await.expect("it ends"), None);
    });
}

#[test]
fn a_consumer_until_now_ends_where_no_record_is_left() {
    // Method: all records are trimmed; or none is as new as the time. No record comes any more.
    run(async {
        let (fake, addresses) = filled(12).await;
        fake.lock().first = 12;
        for start in [Start::Earliest, Start::TimeMs(9_999_999), Start::Latest] {
            let consumer = client(&addresses, 2_000).consumer("s").start(start.clone()).until_now();
            let mut consumer = consumer.open().await.expect("it opens");
            let next = tokio::time::timeout(Duration::from_secs(5), consumer.next()).await;
            let next = next.unwrap_or_else(|_| panic!("{start:?}: it waits for a record"));
            assert_eq!(next.expect("it ends"), None);
            assert_eq!(consumer.position(), Some(12));
        }
    });
}

#[test]
fn an_offset_beyond_the_end_is_told_with_what_is_there() {
    // Method: start at 99 of 12.
    run(async {
        let (_fake, addresses) = filled(12).await;
        let consumer = client(&addresses, 2_000).consumer("s").start(Start::Offset(99));
        let error = consumer.open().await.expect_err("it is not there");
        assert!(matches!(error, Error::OffsetOutOfRange { first: 0, next: 12, .. }), "{error}");
    });
}

#[test]
fn a_server_that_stays_away_is_an_error_in_time_and_the_consumer_stays_usable() {
    // Method: there is no server. The start is the earliest record, so `open` needs none.
    run(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = format!("http://{}", listener.local_addr().expect("it is bound"));
        drop(listener);
        let mut consumer = client(&[address], 300).consumer("s").open().await.expect("it opens");
        for _ in 0..2 {
            let error = consumer.next().await.expect_err("no server is there");
            assert!(matches!(error, Error::Deadline { attempts: 2.., .. }), "{error:?}");
        }
    });
}
