//! Single calls.

use std::time::{Duration, Instant};

use seawall_client::{Client, Error, Idempotence, ProduceOptions, Record};
use tokio::net::TcpListener;

use crate::fake::{Fake, Fault};
use crate::{client, run};

#[test]
fn each_fault_alone_neither_loses_nor_doubles_a_record() {
    // Method: produce three records one after another; the second meets the fault.
    let faults = [
        Fault::CutAfter,
        Fault::CutBefore,
        Fault::Unavailable,
        Fault::QueueFull(30),
        Fault::MoveWithHint,
        Fault::MoveWithoutHint,
        Fault::SilentAfter,
        Fault::SilentBefore,
        Fault::Forget,
    ];
    run(async {
        for fault in faults {
            let (fake, addresses) = Fake::start(2).await;
            fake.script([Fault::None, fault]);
            let client = client(&addresses, 20_000);
            for number in 0..3_u64 {
                let appended = client.produce("s", number.to_string()).await;
                let appended = appended.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
                assert_eq!(appended.offset, number, "{fault:?}");
                let is_repeated = matches!(fault, Fault::CutAfter | Fault::SilentAfter);
                assert_eq!(appended.is_duplicate, is_repeated && number == 1, "{fault:?}");
            }
            assert_eq!(fake.values(), ["0", "1", "2"], "{fault:?}");
        }
    });
}

#[test]
fn many_failures_in_a_row_are_outlasted() {
    // Method: nine attempts are refused or lost before one succeeds.
    run(async {
        let (fake, addresses) = Fake::start(3).await;
        fake.script([Fault::Unavailable; 4]);
        fake.script([Fault::MoveWithoutHint, Fault::MoveWithHint, Fault::CutAfter]);
        fake.script([Fault::QueueFull(1), Fault::Unavailable]);
        let appended = client(&addresses, 20_000).produce("s", "a").await.expect("it is appended");
        assert!(appended.is_duplicate);
        assert_eq!(fake.values(), ["a"]);
    });
}

#[test]
fn a_call_without_idempotence_is_not_repeated_and_says_that_it_is_not_known() {
    // Method: lose the answer. Only one request may have come.
    run(async {
        for fault in [Fault::CutAfter, Fault::SilentBefore, Fault::Unavailable] {
            let (fake, addresses) = Fake::start(1).await;
            fake.script([fault]);
            let options = ProduceOptions::default().idempotence(Idempotence::Off);
            let records = vec![Record::new("a")];
            let error = client(&addresses, 700).produce_with("s", records, options).await;
            let error = error.expect_err("the answer is lost");
            assert!(error.is_outcome_unknown(), "{fault:?}: {error}");
            assert!(error.to_string().contains("may or may not have been carried out"), "{error}");
            assert_eq!(fake.lock().requests, 1, "{fault:?}");
        }
    });
}

#[test]
fn a_call_without_idempotence_is_repeated_if_it_was_refused() {
    // Method: refuse the first attempt for want of room, the second for another leader.
    run(async {
        let (fake, addresses) = Fake::start(2).await;
        fake.script([Fault::QueueFull(1), Fault::MoveWithHint]);
        let options = ProduceOptions::default().idempotence(Idempotence::Off);
        let records = vec![Record::new("a")];
        let appended = client(&addresses, 5_000).produce_with("s", records, options).await;
        assert_eq!(appended.expect("it is appended").offset, 0);
        assert_eq!(fake.values(), ["a"]);
    });
}

#[test]
fn after_a_call_with_an_unknown_outcome_the_next_one_leaves_no_gap() {
    // Method: no attempt of the first call is answered; the second call must be accepted. Each of
    // the two outcomes is tried, and also a call that its caller gives up.
    run(async {
        for (fault, expected) in [(Fault::SilentAfter, 2), (Fault::SilentBefore, 1)] {
            let (fake, addresses) = Fake::start(1).await;
            let client = client(&addresses, 600);
            fake.lock().always = Some(fault);
            let error = client.produce("s", "a").await.expect_err("no attempt is answered");
            assert!(error.is_outcome_unknown(), "{error}");
            fake.lock().always = None;
            client.produce("s", "b").await.expect("the new epoch is accepted");
            assert_eq!(fake.lock().records.len(), expected);
            fake.script([fault]);
            let wait = Duration::from_millis(50);
            assert!(tokio::time::timeout(wait, client.produce("s", "c")).await.is_err());
            client.produce("s", "d").await.expect("the new epoch is accepted");
            assert_eq!(fake.values().last().map(String::as_str), Some("d"));
        }
    });
}

#[test]
fn the_deadline_is_kept_and_the_error_says_how_often_it_was_tried() {
    // Method: servers that are always full, that never answer, that are not there.
    run(async {
        let (fake, addresses) = Fake::start(2).await;
        for fault in [Fault::QueueFull(20), Fault::SilentBefore, Fault::Unavailable] {
            fake.lock().always = Some(fault);
            let start = Instant::now();
            let error = client(&addresses, 600).produce("s", "a").await.expect_err("none works");
            let waited = start.elapsed();
            assert!(waited < Duration::from_millis(1_500), "{fault:?}: {waited:?}");
            // On a slow machine, the last answer of a full server may come too late.
            let is_unknown = error.is_outcome_unknown();
            assert!(is_unknown || matches!(fault, Fault::QueueFull(_)), "{fault:?}: {error:?}");
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = format!("http://{}", listener.local_addr().expect("it is bound"));
        drop(listener);
        let start = Instant::now();
        let error = client(&[address], 600).produce("s", "a").await.expect_err("none is there");
        assert!(start.elapsed() < Duration::from_millis(1_500));
        assert!(matches!(error, Error::Deadline { attempts: 2.., .. }), "{error:?}");
    });
}

#[test]
fn a_retry_is_made_even_if_the_server_asks_for_a_long_wait() {
    // Method: the server asks for ten minutes; the deadline is half a second.
    run(async {
        let (fake, addresses) = Fake::start(1).await;
        fake.script([Fault::QueueFull(600_000)]);
        client(&addresses, 500).produce("s", "a").await.expect("the retry is accepted");
        assert_eq!(fake.lock().requests, 2);
    });
}

#[test]
fn refusals_are_told_apart_and_take_no_sequence() {
    // Method: an expected offset that does not fit between two calls that do.
    run(async {
        let (fake, addresses) = Fake::start(1).await;
        let client = client(&addresses, 2_000);
        client.produce("s", "a").await.expect("it is appended");
        let options = ProduceOptions::default().expected_offset(0);
        let error = client.produce_with("s", vec!["b".into()], options).await;
        assert!(matches!(error, Err(Error::ExpectedOffset { next: 1, .. })), "{error:?}");
        client.produce("s", "c").await.expect("it is appended");
        assert_eq!(fake.values(), ["a", "c"]);
        let error = client.trim("s", 1).await;
        assert!(matches!(error, Err(Error::LimitReached { .. })), "{error:?}");
        let error = client.set_limits("s", Default::default()).await;
        assert!(matches!(error, Err(Error::Denied { .. })), "{error:?}");
        let error = client.delete_stream("s").await;
        assert!(matches!(error, Err(Error::NoSuchStream { .. })), "{error:?}");
    });
}

#[test]
fn calls_together_are_appended_once_each() {
    // Method: 40 calls at once, more than there are lanes, while connections break.
    run(async {
        let (fake, addresses) = Fake::start(2).await;
        let faults = [Fault::None, Fault::CutAfter, Fault::None, Fault::None, Fault::MoveWithHint];
        fake.script(faults.into_iter().cycle().take(60));
        let client = client(&addresses, 20_000);
        let calls = (0..40).map(|number: u32| {
            let client = client.clone();
            tokio::spawn(async move { client.produce("s", number.to_string()).await })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.expect("no panic").expect("it is appended");
        }
        let mut values: Vec<u32> =
            fake.values().iter().map(|value| value.parse().expect("a number")).collect();
        values.sort_unstable();
        assert_eq!(values, (0..40).collect::<Vec<_>>());
    });
}

#[test]
fn bad_settings_are_refused_at_once() {
    // Method: no address, an address that is none, a TLS file that is not there.
    assert!(Client::connect(Vec::<String>::new()).is_err());
    assert!(Client::connect(["http://a b"]).is_err());
    let ca = Some("/nowhere/ca.pem".into());
    let tls = seawall_client::Tls { ca, ..Default::default() };
    let error = Client::builder(["https://a:1"]).tls(tls).build().expect_err("no file");
    assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
}
