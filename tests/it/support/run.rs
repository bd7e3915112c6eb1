//! How a test runs: under a watchdog, and with a seed that repeats the same run.

use std::sync::mpsc;
use std::time::{Duration, SystemTime};
use std::{env, panic, process, thread};

/// Runs `body`, and ends the whole test run if `body` takes longer. So a lost wake-up is a failure
/// and never a hang. `SEAWALL_WATCHDOG_FACTOR` multiplies the limit, where a machine is emulated.
pub(crate) fn watchdog<T: Send>(seconds: u64, body: impl FnOnce() -> T + Send) -> T {
    let factor = env::var("SEAWALL_WATCHDOG_FACTOR")
        .map_or(1, |factor| factor.parse().expect("SEAWALL_WATCHDOG_FACTOR is a whole number"));
    let seconds = seconds * factor;
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let (done, finished) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let worker = thread::Builder::new().name(name.clone()).spawn_scoped(scope, move || {
            let outcome = body();
            drop(done); // A panic drops `done` too: the watchdog only ends hangs.
            outcome
        });
        let worker = worker.expect("a thread can be started");
        if finished.recv_timeout(Duration::from_secs(seconds))
            == Err(mpsc::RecvTimeoutError::Timeout)
        {
            eprintln!(
                "\nWATCHDOG: {name} is not done after {seconds} s: a thread waits for ever\n"
            );
            process::abort();
        }
        worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

/// Returns the seed of a random test: `SEAWALL_SEED` if it is set, otherwise a seed from the clock.
/// Prints the seed for a second run.
pub(crate) fn seed() -> u64 {
    let given =
        env::var("SEAWALL_SEED").ok().map(|seed| seed.parse().expect("SEAWALL_SEED is a number"));
    let seed = given.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        u64::from(now.expect("the clock is after 1970").subsec_nanos())
    });
    println!("to run it again: SEAWALL_SEED={seed}");
    seed
}
