//! The client of a cluster whose leader changes, whose nodes lag, are away or cannot be reached.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use seawall_client::{Client, Error, ReadFrom, Start};
use seawall_proto::log::v1 as log;
use tokio::net::TcpListener;

use crate::fake::{Change, Fake, Fault};
use crate::{Draw, client, quick, run};

/// An address that refuses connections.
async fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    listener.local_addr().expect("it is bound").to_string()
}

/// Waits until something is so. The watchdog of the test ends it.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn members_take_the_place_of_a_seed_that_is_gone() {
    // Method: the client knows one of three nodes. After its first call, that node is gone.
    run(async {
        let (fake, addresses) = Fake::start(3).await;
        let client = client(&addresses[..1], 10_000);
        client.produce("s", "0").await.expect("it is appended");
        tokio::time::sleep(Duration::from_millis(300)).await;
        fake.kill(0);
        fake.lock().leader = 2;
        client.produce("s", "1").await.expect("a member answers");
        let mut consumer = client.consumer("s").until_now().open().await.expect("it opens");
        for offset in 0..2 {
            let record = consumer.next().await.expect("a member answers").expect("it is there");
            assert_eq!(record.offset, offset);
        }
        assert_eq!(fake.values(), ["0", "1"]);
    });
}

#[test]
fn callers_do_not_see_an_election() {
    // Method: the leader dies. For a while, the others take it for the leader; then they know none;
    // then another one leads. Calls and a producer work all the time, and are soon there.
    run(async {
        let (fake, addresses) = Fake::start(3).await;
        let client = quick(&addresses, 20_000).backoff(Duration::from_millis(50), Duration::MAX);
        let client = client.build().expect("the settings are valid");
        let producer = client.producer("s").batch_records_max(3).build();
        producer.send("first").await.expect("it is appended");
        let other = fake.clone();
        let election = tokio::spawn(async move {
            let dead = addresses[0].trim_start_matches("http://").to_owned();
            other.lock().belief = Some(dead);
            other.lock().leader = 1;
            other.lock().is_electing = true;
            other.kill(0);
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            other.lock().belief = None;
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            other.lock().is_electing = false;
            Instant::now()
        });
        let mut receipts = Vec::new();
        for number in 0..50 {
            receipts.push(producer.queue(format!("p{number}")).await.expect("there is room"));
        }
        let calls: Vec<_> = (0..10)
            .map(|number| {
                let client = client.clone();
                tokio::spawn(async move { client.produce("s", format!("c{number}")).await })
            })
            .collect();
        for call in calls {
            call.await.expect("no panic").expect("it is appended");
        }
        let mut last = 0;
        for receipt in receipts {
            let offset = receipt.await.expect("it is appended").offset;
            assert!(offset > last, "records keep their order");
            last = offset;
        }
        let waited = election.await.expect("no panic").elapsed();
        assert!(waited < Duration::from_millis(1_500), "the leader was found late: {waited:?}");
        let values = fake.values();
        let unique: HashSet<&String> = values.iter().collect();
        assert_eq!((values.len(), unique.len()), (61, 61), "{values:?}");
    });
}

#[test]
fn a_leader_that_says_nothing_is_left_after_one_attempt() {
    // Method: the leader falls silent, and another one is elected.
    run(async {
        let (fake, addresses) = Fake::start(3).await;
        let client = client(&addresses, 10_000);
        let producer = client.producer("s").build();
        producer.send("0").await.expect("it is appended");
        fake.lock().silent.insert(0);
        fake.lock().leader = 1;
        let start = Instant::now();
        producer.send("1").await.expect("it is appended");
        client.produce("s", "2").await.expect("it is appended");
        let waited = start.elapsed();
        assert!(waited < Duration::from_millis(1_500), "{waited:?}");
        assert_eq!(fake.values(), ["0", "1", "2"]);
    });
}

#[test]
fn addresses_that_cannot_be_reached_leave_the_seeds_usable() {
    // Method: all members, and the leader that nodes name, are told at addresses that refuse.
    run(async {
        let (fake, addresses) = Fake::start(3).await;
        let mut members = Vec::new();
        for _ in 0..3 {
            members.push(closed().await);
        }
        fake.lock().belief = Some(members[2].clone());
        fake.lock().members = Some(members);
        fake.lock().leader = 2;
        let client = client(&addresses, 10_000);
        for number in 0..3_u64 {
            let appended = client.produce("s", number.to_string()).await.expect("a seed leads");
            assert_eq!(appended.offset, number);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for read_from in [ReadFrom::AnyNode, ReadFrom::Leader] {
            let consumer = client.consumer("s").read_from(read_from).until_now();
            let mut consumer = consumer.open().await.expect("it opens");
            for offset in 0..3 {
                let record = consumer.next().await.expect("a seed answers");
                assert_eq!(record.expect("it is there").offset, offset);
            }
        }
    });
}

#[test]
fn a_full_disk_of_a_node_that_follows_is_no_reason_to_wait() {
    // Method: all nodes except the leader are full, and the client does not know the leader.
    run(async {
        let (fake, addresses) = Fake::start(3).await;
        fake.lock().full.extend([0, 1]);
        fake.lock().leader = 2;
        let client = client(&addresses, 5_000);
        client.produce("s", "0").await.expect("the leader has room");
        let producer = client.producer("s").build();
        producer.send("1").await.expect("the leader has room");
        assert_eq!(fake.values(), ["0", "1"]);
    });
}

#[test]
fn leaders_that_change_at_random_keep_every_record_once_and_in_order() {
    // Method: fixed seeds. The lead moves while batches are in flight; answers are lost; nodes that
    // do not lead name the right leader, a wrong one, or none.
    run(async {
        for seed in 0..20 {
            let mut draw = Draw(seed);
            let (fake, addresses) = Fake::start(3).await;
            let client = client(&addresses[..1], 30_000);
            let producer = client.producer("s").linger(Duration::ZERO);
            let producer = producer.batch_records_max(1 + draw.index(5)).build();
            let mut receipts = Vec::new();
            for number in 0..150_u64 {
                receipts.push(producer.queue(number.to_string()).await.expect("there is room"));
                if draw.below(15) == 0 {
                    let faults = [
                        Fault::LeaderLostAfter,
                        Fault::LeaderLostBefore,
                        Fault::MoveWithHint,
                        Fault::MoveWithoutHint,
                        Fault::CutAfter,
                    ];
                    fake.script([faults[draw.index(faults.len())]]);
                    let believed = fake.lock().addresses[draw.index(3)].to_string();
                    let beliefs = [None, Some(believed), Some(String::new())];
                    fake.lock().belief = beliefs[draw.index(3)].clone();
                    fake.lock().leader = draw.index(3);
                    tokio::time::sleep(Duration::from_millis(draw.below(8))).await;
                }
            }
            fake.lock().belief = None;
            for (number, receipt) in (0..).zip(receipts) {
                let appended = receipt.await.unwrap_or_else(|error| panic!("{seed}: {error}"));
                assert_eq!(appended.offset, number, "{seed}");
            }
            let expected: Vec<String> = (0..150).map(|number: u64| number.to_string()).collect();
            assert_eq!(fake.values(), expected, "{seed}");
        }
    });
}

#[test]
fn a_batch_that_a_node_with_lower_limits_refuses_may_have_been_appended() {
    // Method: the leader appends a batch, and its answer is lost. The next leader refuses records
    // of this size before it looks for an earlier answer. The record must not come twice, and no
    // caller may be told that it is not there.
    run(async {
        let (fake, addresses) = Fake::start(2).await;
        let client = client(&addresses, 5_000);
        fake.lock().value_bytes_max_of.insert(1, 10);
        let producer = client.producer("s").batch_records_max(1).build();
        producer.send("a").await.expect("it is appended");
        fake.script([Fault::LeaderLostAfter]);
        let error = producer.send("x".repeat(20)).await.expect_err("its outcome is not known");
        assert!(error.is_outcome_unknown(), "{error}");
        producer.send("b").await.expect("it is appended");
        fake.lock().leader = 0;
        client.produce("s", "c").await.expect("it is appended");
        fake.script([Fault::LeaderLostAfter]);
        let error = client.produce("s", "y".repeat(20)).await.expect_err("it is not known");
        assert!(error.is_outcome_unknown(), "{error}");
        let values = fake.values();
        let expected = ["a", &"x".repeat(20), "b", "c", &"y".repeat(20)];
        assert_eq!(values, expected);
    });
}

#[test]
fn a_bad_record_is_told_as_such_after_a_redirect() {
    // Method: the first node that is asked does not lead. It is certain that it appended nothing.
    run(async {
        let (fake, addresses) = Fake::start(3).await;
        fake.lock().leader = 2;
        fake.lock().value_bytes_max = Some(10);
        let client = client(&addresses, 5_000);
        let producer = client.producer("s").batch_records_max(1).build();
        let bad = producer.queue("x".repeat(20)).await.expect("there is room");
        let good = producer.queue("a").await.expect("there is room");
        let error = bad.await.expect_err("it is refused");
        assert!(matches!(error, Error::BadRequest { .. }), "{error:?}");
        assert_eq!(good.await.expect("it is appended").offset, 0);
    });
}

#[test]
fn consumers_spread_over_the_members_or_read_from_the_leader() {
    // Method: 60 consumers of three nodes, from one seed; and 5 that want the leader.
    run(async {
        let (fake, addresses) = Fake::start(3).await;
        fake.fill((0..5).map(|number| number.to_string()));
        fake.lock().leader = 1;
        for _ in 0..60 {
            let client = client(&addresses[..1], 5_000);
            let mut consumer = client.consumer("s").open().await.expect("it opens");
            consumer.next().await.expect("it comes").expect("it is there");
        }
        let consumers = std::mem::take(&mut fake.lock().consumers);
        for node in 0..3 {
            let count = consumers.iter().filter(|(own, _)| *own == node).count();
            assert!(count >= 5, "node {node} has {count} of 60");
        }
        for _ in 0..5 {
            let client = client(&addresses[..1], 5_000);
            let consumer = client.consumer("s").read_from(ReadFrom::Leader);
            let mut consumer = consumer.open().await.expect("it opens");
            consumer.next().await.expect("it comes").expect("it is there");
        }
        assert!(fake.lock().consumers.iter().all(|(node, _)| *node == 1));
    });
}

#[test]
fn nodes_that_lag_make_no_consumer_repeat_or_leave_out_a_record() {
    // Method: fixed seeds. Records come, nodes lag and catch up, connections break. Each resumed
    // request asks for no less than the consumer has seen.
    run(async {
        for seed in 0..8 {
            let mut draw = Draw(seed);
            let (fake, addresses) = Fake::start(3).await;
            fake.fill(["0".to_owned()]);
            let client = client(&addresses, 20_000);
            let mut consumer = client.consumer("s").open().await.expect("it opens");
            let writer = fake.clone();
            let writing = tokio::spawn(async move {
                for number in 1..200_u64 {
                    writer.fill([number.to_string()]);
                    if draw.below(8) == 0 {
                        let node = 1 + draw.index(2);
                        let lag = [Some(number.saturating_sub(draw.below(30))), None];
                        writer.lag(node, lag[draw.index(2)]);
                    }
                    if draw.below(20) == 0 {
                        writer.cut();
                    }
                    tokio::time::sleep(Duration::from_millis(draw.below(4))).await;
                }
                writer.lag(1, None);
                writer.lag(2, None);
            });
            for offset in 0..200 {
                let record =
                    consumer.next().await.unwrap_or_else(|error| panic!("{seed}: {error}"));
                assert_eq!(record.expect("it waits").offset, offset, "{seed}");
            }
            writing.await.expect("no panic");
            for (_, request) in &fake.lock().consumers {
                if request.offset > 0 {
                    assert_eq!(request.consistency(), log::Consistency::AtLeast);
                    assert_eq!(request.at_least_offset, request.offset);
                }
            }
        }
    });
}

#[test]
fn a_consumer_leaves_a_node_that_stays_behind() {
    // Method: two of three nodes stop at five records. Both a consumer that ends and one that
    // waits for more come to the twentieth record, wherever they began.
    run(async {
        let (fake, addresses) = Fake::start(3).await;
        fake.fill((0..20).map(|number| number.to_string()));
        fake.lag(1, Some(5));
        fake.lag(2, Some(5));
        let mut behind = 0;
        for round in 0..12 {
            let client = client(&addresses, 10_000);
            let builder = client.consumer("s");
            let builder = if round % 2 == 0 { builder.until_now() } else { builder };
            let mut consumer = builder.open().await.expect("it opens");
            for offset in 0..20 {
                let record = consumer.next().await.expect("the leader has it");
                assert_eq!(record.expect("it is there").offset, offset);
            }
            let consumers = std::mem::take(&mut fake.lock().consumers);
            behind += usize::from(consumers[0].0 != 0);
        }
        assert!(behind > 0, "no consumer began at a node that is behind");
    });
}

#[test]
fn what_a_node_that_lags_does_not_know_is_asked_of_the_group() {
    // Method: two of three nodes do not know the stream, or say that the offset is beyond the end.
    run(async {
        let (fake, addresses) = Fake::start(3).await;
        fake.fill((0..20).map(|number| number.to_string()));
        for round in 0..8 {
            let is_unaware = round % 2 == 0;
            fake.lock().unaware = if is_unaware { HashSet::from([1, 2]) } else { HashSet::new() };
            let client = client(&addresses, 10_000);
            let consumer = client.consumer("s").start(Start::Offset(15));
            let mut consumer = consumer.open().await.expect("it opens");
            fake.lag(1, Some(3).filter(|_| !is_unaware));
            fake.lag(2, Some(3).filter(|_| !is_unaware));
            for offset in 15..20 {
                let record = consumer.next().await.expect("the leader knows it");
                assert_eq!(record.expect("it is there").offset, offset);
            }
        }
    });
}

#[test]
fn a_question_for_the_members_ends_with_the_client() {
    // Method: no node answers the question. The client is dropped.
    run(async {
        let (fake, addresses) = Fake::start(1).await;
        fake.lock().hides_members = true;
        let waiting = Arc::clone(&fake.lock().waiting);
        let before = Arc::strong_count(&waiting);
        let client = client(&addresses, 5_000);
        client.produce("s", "a").await.expect("it is appended");
        until(|| Arc::strong_count(&waiting) == before + 1).await;
        let start = Instant::now();
        drop(client);
        until(|| Arc::strong_count(&waiting) == before).await;
        assert!(start.elapsed() < Duration::from_millis(1_000), "it ended by its own time-out");
    });
}

#[test]
fn changes_of_the_members_find_the_leader_and_are_made_once() {
    // Method: the second node leads. Answers are lost, and the repeated call is refused because the
    // first one was carried out.
    run(async {
        let (fake, addresses) = Fake::start(3).await;
        fake.lock().leader = 1;
        let client = client(&addresses[..1], 10_000);
        let members = client.join("http://d:1").await.expect("the leader adds it");
        assert_eq!(members.len(), 3);
        assert_eq!(fake.lock().asked.last(), Some(&(1, "join d:1".to_owned())));
        fake.lock().membership.extend([Change::Unavailable, Change::Refused("NO_SUCH_NODE")]);
        client.leave(9).await.expect("the first attempt removed it");
        fake.lock()
            .membership
            .extend([Change::Unavailable, Change::Refused("ALREADY_BOOTSTRAPPED")]);
        let own: Vec<String> = fake.members().into_iter().map(|member| member.addr).collect();
        client.bootstrap(&own).await.expect("the first attempt made it");
    });
}

#[test]
fn refused_changes_of_the_members_are_told_with_their_reason() {
    // Method: each reason that the server gives, without a lost answer before it.
    run(async {
        let (fake, addresses) = Fake::start(1).await;
        let client = client(&addresses, 5_000);
        let reasons = [
            "LAST_VOTER",
            "NO_SUCH_NODE",
            "NODE_ID_TAKEN",
            "OTHER_CLUSTER",
            "OTHER_LIMITS",
            "ALREADY_BOOTSTRAPPED",
        ];
        for expected in reasons {
            let calls = 3;
            fake.lock().membership.extend(vec![Change::Refused(expected); calls]);
            let errors = [
                client.join("d:1").await.expect_err("it is refused"),
                client.leave(9).await.expect_err("it is refused"),
                client.bootstrap(["d:1"]).await.expect_err("it is refused"),
            ];
            for error in errors {
                let Error::Membership { reason, .. } = &error else { panic!("{error:?}") };
                assert_eq!(reason, expected);
                assert!(error.to_string().contains(expected), "{error}");
            }
        }
    });
}

#[test]
fn reports_show_each_member_and_who_cannot_be_reached() {
    // Method: one member is away, one is told at an address that refuses although a seed leads to
    // it, and one seed is no node at all.
    run(async {
        let (fake, addresses) = Fake::start(3).await;
        let away = closed().await;
        let no_node = closed().await;
        let mut members: Vec<String> = addresses.iter().map(|own| own[7..].to_owned()).collect();
        members.push(away.clone());
        fake.lock().members = Some(members);
        fake.lock().leader = 2;
        let seeds = [addresses[0].clone(), format!("http://{no_node}")];
        let client = Client::connect(seeds).expect("the settings are valid");
        let reports = client.reports().await;
        let ids: Vec<Option<u64>> =
            reports.iter().map(|own| own.member.as_ref().map(|member| member.node_id)).collect();
        assert_eq!(ids, [Some(1), Some(2), Some(3), Some(4), None]);
        let answers: Vec<bool> = reports.iter().map(|own| own.status.is_ok()).collect();
        assert_eq!(answers, [true, true, true, false, false]);
        assert_eq!(reports[3].address, away);
        assert!(reports[4].address.contains(&no_node));
        let status = client.leader_status().await.expect("the leader answers");
        assert_eq!((status.node_id, status.leader_id), (3, 3));
        drop(fake);
    });
}
