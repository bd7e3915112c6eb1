//! The client against servers that fail by a script.

mod cluster;
mod consumer;
mod fake;
mod producer;
mod unary;

use std::time::Duration;

use seawall_client::{Builder, Client};

/// Runs a test with real time, and fails it if it hangs.
fn run(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("there are threads").block_on(async {
        let watchdog = tokio::time::timeout(Duration::from_secs(60), test);
        watchdog.await.expect("the test hangs");
    });
}

/// A client that does not wait for long.
fn client(addresses: &[String], deadline_ms: u64) -> Client {
    quick(addresses, deadline_ms).build().expect("the settings are valid")
}

fn quick(addresses: &[String], deadline_ms: u64) -> Builder {
    Client::builder(addresses.iter().cloned())
        .deadline(Duration::from_millis(deadline_ms))
        .attempt_timeout(Duration::from_millis(400))
        .backoff(Duration::from_millis(5), Duration::from_millis(50))
}

/// Numbers that are the same in each run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).expect("it is less than `end`")
    }
}
