//! Waiters under loom: every schedule of a few threads that publish, follow, give up and serve
//! wakers. A thread that is left asleep is a deadlock, which loom reports.

use super::*;
use loom::thread::{spawn, yield_now};

/// A log as its followers see it: its last visible record.
struct Log {
    visible: AtomicU64,
    waiters: Waiters,
}

impl Log {
    fn new() -> Arc<Log> {
        Arc::new(Log { visible: AtomicU64::new(0), waiters: Waiters::new() })
    }

    fn publish(&self, visible: u64) {
        self.visible.fetch_max(visible, Ordering::AcqRel);
        self.waiters.changed();
    }

    fn follow_to(&self, wanted: u64) {
        loop {
            let seen = self.waiters.last_change();
            if self.visible.load(Ordering::Acquire) >= wanted {
                return;
            }
            self.waiters.wait(seen, || None, |_| {});
        }
    }
}

#[test]
fn each_follower_is_woken_whoever_publishes() {
    loom::model(|| {
        let log = Log::new();
        let followers = [1, 2].map(|wanted| {
            let log = log.clone();
            spawn(move || log.follow_to(wanted))
        });
        log.publish(1);
        log.publish(2);
        followers.into_iter().for_each(|follower| follower.join().unwrap());
    });
}

#[test]
fn two_publishers_leave_no_follower_asleep() {
    loom::model(|| {
        let log = Log::new();
        let publisher = {
            let log = log.clone();
            spawn(move || log.publish(1))
        };
        let follower = {
            let log = log.clone();
            spawn(move || log.follow_to(2))
        };
        log.publish(2);
        publisher.join().unwrap();
        follower.join().unwrap();
    });
}

#[test]
fn a_follower_whose_time_is_over_passes_the_wake_up_on() {
    loom::model(|| {
        let log = Log::new();
        let gives_up = {
            let log = log.clone();
            spawn(move || {
                let seen = log.waiters.last_change();
                let looks = std::cell::Cell::new(0_u64);
                let left = || {
                    looks.set(looks.get() + 1);
                    Some(Duration::from_millis(2_u64.saturating_sub(looks.get())))
                };
                log.waiters.wait(seen, left, |_| {});
            })
        };
        let follower = {
            let log = log.clone();
            spawn(move || log.follow_to(1))
        };
        yield_now();
        log.publish(1);
        gives_up.join().unwrap();
        follower.join().unwrap();
    });
}

#[test]
fn a_waker_is_called_after_each_change() {
    struct Flag(loom::sync::atomic::AtomicBool);
    impl std::task::Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    loom::model(|| {
        let log = Log::new();
        let serves = {
            let log = log.clone();
            spawn(move || {
                let is_over = || log.visible.load(Ordering::Acquire) >= 1;
                log.waiters.serve_wakers(is_over);
            })
        };
        let flag = Arc::new(Flag(loom::sync::atomic::AtomicBool::new(false)));
        log.waiters.set_waker(7, &Waker::from(flag.clone()));
        let is_there = log.visible.load(Ordering::Acquire) >= 1;
        assert!(!is_there);
        log.publish(1);
        serves.join().unwrap();
        assert!(flag.0.load(Ordering::SeqCst), "the task was not woken");
    });
}
