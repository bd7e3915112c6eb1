//! The batching producer.

use std::time::{Duration, Instant};

use seawall_client::{Error, Producer, Receipt};

use crate::fake::{Fake, Fault};
use crate::{Draw, client, run};

async fn queue(producer: &Producer, numbers: std::ops::Range<u64>) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for number in numbers {
        receipts.push(producer.queue(number.to_string()).await.expect("the producer works"));
    }
    receipts
}

/// Checks that records 0, 1, … are there in order, each once, where the receipts say.
async fn check(fake: &Fake, receipts: Vec<Receipt>) {
    let count = receipts.len() as u64;
    for (number, receipt) in (0..).zip(receipts) {
        let appended = receipt.await.expect("it is appended");
        assert_eq!(appended.offset, number);
    }
    assert_eq!(fake.values(), (0..count).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn each_fault_alone_keeps_every_record_once_and_in_order() {
    // Method: small batches, several in flight; the third meets the fault.
    let faults = [
        Fault::None,
        Fault::CutAfter,
        Fault::CutBefore,
        Fault::Unavailable,
        Fault::QueueFull(30),
        Fault::MoveWithHint,
        Fault::MoveWithoutHint,
        Fault::SilentAfter,
        Fault::SilentBefore,
    ];
    run(async {
        for fault in faults {
            let (fake, addresses) = Fake::start(2).await;
            fake.script([Fault::None, Fault::None, fault]);
            let producer = client(&addresses, 20_000).producer("s").batch_records_max(5).build();
            let receipts = queue(&producer, 0..60).await;
            producer.flush().await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
            check(&fake, receipts).await;
        }
    });
}

#[test]
fn faults_at_random_keep_every_record_once_and_in_order() {
    // Method: scripts of faults, drawn with fixed seeds; also cuts at any time.
    let kinds = [
        Fault::None,
        Fault::None,
        Fault::CutAfter,
        Fault::CutBefore,
        Fault::Unavailable,
        Fault::QueueFull(3),
        Fault::MoveWithHint,
        Fault::MoveWithoutHint,
        Fault::SilentAfter,
    ];
    run(async {
        for seed in 0..20 {
            let mut draw = Draw(seed);
            let (fake, addresses) = Fake::start(3).await;
            let count = 1 + draw.below(12);
            let faults: Vec<Fault> = (0..count).map(|_| kinds[draw.index(kinds.len())]).collect();
            fake.script(faults);
            let producer = client(&addresses, 30_000).producer("s").linger(Duration::ZERO);
            let producer = producer.batch_records_max(1 + draw.index(9)).build();
            let mut receipts = Vec::new();
            for part in 0..10 {
                receipts.extend(queue(&producer, part * 20..part * 20 + 20).await);
                if draw.below(4) == 0 {
                    fake.cut();
                }
                tokio::time::sleep(Duration::from_millis(draw.below(5))).await;
            }
            producer.close().await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            check(&fake, receipts).await;
        }
    });
}

#[test]
fn batches_grow_while_as_many_as_may_be_are_in_flight() {
    // Method: the server has no room at first. Records come one by one, each after the batch of the
    // one before would have been sent. Counted are the requests after there is room.
    run(async {
        let (fake, addresses) = Fake::start(1).await;
        fake.lock().always = Some(Fault::QueueFull(20));
        let producer = client(&addresses, 20_000).producer("s").linger(Duration::ZERO);
        let producer = producer.in_flight_max(4).build();
        let mut receipts = Vec::new();
        for number in 0..100 {
            receipts.extend(queue(&producer, number..number + 1).await);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        fake.lock().always = None;
        fake.lock().requests = 0;
        producer.flush().await.expect("there is room");
        let requests = fake.lock().requests;
        assert!(requests < 25, "{requests} requests");
        check(&fake, receipts).await;
    });
}

#[test]
fn a_bad_record_fails_alone() {
    // Method: one of 40 records in a batch is too large, while other batches are in flight.
    run(async {
        let (fake, addresses) = Fake::start(1).await;
        fake.lock().value_bytes_max = Some(100);
        let producer = client(&addresses, 20_000).producer("s").batch_records_max(40).build();
        let mut receipts = Vec::new();
        for number in 0..200 {
            let value = if number == 57 { "x".repeat(100) } else { number.to_string() };
            receipts.push(producer.queue(value).await.expect("the producer works"));
        }
        let error = producer.flush().await.expect_err("one record fails");
        assert!(matches!(error, Error::BadRequest { .. }), "{error}");
        producer.flush().await.expect("the error was told");
        for (number, receipt) in (0..).zip(receipts) {
            let answer = receipt.await;
            match number {
                57 => assert!(matches!(answer, Err(Error::BadRequest { .. })), "{answer:?}"),
                _ => {
                    assert_eq!(answer.expect("it is good").offset, number - u64::from(number > 57))
                }
            }
        }
        let expected = (0..200).filter(|number| *number != 57).map(|number| number.to_string());
        assert_eq!(fake.values(), expected.collect::<Vec<_>>());
    });
}

#[test]
fn every_record_gets_an_answer_if_no_server_answers() {
    // Method: silence, refusals and no room for ever. Each record gets its error in time; then the
    // producer goes on, and no record comes twice.
    run(async {
        for fault in
            [Fault::SilentBefore, Fault::SilentAfter, Fault::Unavailable, Fault::QueueFull(9)]
        {
            let (fake, addresses) = Fake::start(2).await;
            fake.lock().always = Some(fault);
            let producer = client(&addresses, 700).producer("s").batch_records_max(3).build();
            let start = Instant::now();
            let receipts = queue(&producer, 0..40).await;
            for receipt in receipts {
                let error = receipt.await.expect_err("no server answers");
                let is_late = matches!(
                    error.root(),
                    Error::Overloaded { .. } | Error::Unavailable { .. } | Error::NotLeader { .. }
                );
                assert!(is_late, "{fault:?}: {error:?}");
                if matches!(fault, Fault::QueueFull(_)) {
                    assert!(matches!(error, Error::Deadline { .. } | Error::OutcomeUnknown { .. }));
                }
            }
            let waited = start.elapsed();
            assert!(waited < Duration::from_millis(2_500), "{fault:?}: {waited:?}");
            fake.lock().always = None;
            producer.send("next").await.expect("the server answers again");
            let mut values = fake.values();
            assert_eq!(values.pop().as_deref(), Some("next"));
            let unique: std::collections::HashSet<&String> = values.iter().collect();
            assert_eq!(unique.len(), values.len(), "{fault:?}: {values:?}");
        }
    });
}

#[test]
fn a_fenced_producer_ends_and_all_that_waits_is_told() {
    // Method: another producer takes over while batches are in flight.
    run(async {
        let (fake, addresses) = Fake::start(1).await;
        let producer = client(&addresses, 5_000).producer("s").batch_records_max(2).build();
        producer.send("a").await.expect("it is appended");
        fake.lock().fence = Some(9);
        let receipts = queue(&producer, 0..21).await;
        for (number, receipt) in receipts.into_iter().enumerate() {
            let error = receipt.await.expect_err("it is fenced");
            assert!(matches!(error.root(), Error::ProducerFenced { epoch: 9, .. }), "{error:?}");
            assert_eq!(matches!(error, Error::ProducerFenced { .. }), number < 2, "{error:?}");
        }
        let error = producer.queue("b").await.expect_err("the producer has ended");
        assert!(matches!(error, Error::Ended { .. }), "{error}");
        assert!(producer.flush().await.is_err());
        assert_eq!(fake.values(), ["a"]);
    });
}

#[test]
fn a_forgotten_producer_begins_anew() {
    // Method: the server forgets the producer between two records.
    run(async {
        let (fake, addresses) = Fake::start(1).await;
        let producer = client(&addresses, 5_000).producer("s").build();
        producer.send("a").await.expect("it is appended");
        fake.script([Fault::Forget]);
        producer.send("b").await.expect("it is appended");
        producer.send("c").await.expect("it is appended");
        assert_eq!(fake.values(), ["a", "b", "c"]);
    });
}

#[test]
fn the_queue_is_bounded_and_a_waiting_call_is_woken() {
    // Method: the server is silent, the queue holds 200 bytes. Then the producer is dropped, or the
    // server answers.
    run(async {
        let (fake, addresses) = Fake::start(1).await;
        fake.script([Fault::SilentBefore]);
        let producer = client(&addresses, 10_000).producer("s").queue_bytes_max(200).build();
        let first = producer.queue("x".repeat(150)).await.expect("there is room");
        let wait = Duration::from_millis(50);
        let second = producer.queue("y".repeat(150));
        let early = tokio::time::timeout(wait, second).await;
        assert!(early.is_err(), "the queue is full");
        let second = producer.queue("z".repeat(900)).await.expect("there is room again");
        assert_eq!(first.await.expect("it is appended").offset, 0);
        assert_eq!(second.await.expect("larger than the queue").offset, 1);
        fake.lock().always = Some(Fault::SilentBefore);
        let last = producer.queue("b").await.expect("there is room");
        drop(producer);
        let error = last.await.expect_err("the producer is dropped");
        assert!(error.is_outcome_unknown(), "{error}");
    });
}
