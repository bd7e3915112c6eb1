//! `Ticket`: the outcome of a submission, as a wait, a callback or a future.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::commit::{Commit, Submitted};
use crate::error::Result;
use crate::lsn::LsnRange;
use crate::observer::Patience;
use crate::store::Store;
use crate::threads::thread;

use super::spares::run_maintenance;

/// Records that were submitted, and that may not be durable yet.
///
/// [`Wal::submit`](crate::Wal::submit) and its kind return it. In each mode, `Ok` from
/// [`wait`](Ticket::wait), from the callback or from the future means that the records survive a
/// power cut. A `Ticket` is a [`Future`] on any executor. Dropping it cancels nothing.
///
/// The first poll or the first callback starts one helper thread of the log. It leads groups if no
/// other thread does, wakes the futures, and calls the callbacks in the order of the submissions.
///
/// # Errors
/// A failed group fails each record that was submitted before the failure was published.
/// [`Error::StorageFull`](crate::Error::StorageFull): the records were taken back, and their LSNs
/// are assigned again; with [`Durability::Buffered`](crate::Durability::Buffered), the records are
/// not durable yet, and stay in memory. [`Error::Truncated`](crate::Error::Truncated): a truncation
/// removed them from memory. [`Error::Poisoned`](crate::Error::Poisoned): it is unknown
/// whether the next open finds the records.
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let wal = seawall::Wal::open(dir.path())?;
/// let (sender, receiver) = std::sync::mpsc::channel();
/// wal.submit("a")?.on_durable(move |outcome| sender.send(outcome).unwrap());
/// assert_eq!(receiver.recv()??.first(), seawall::Lsn::FIRST);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "the records may not be durable yet: wait, set a callback, or poll"]
pub struct Ticket {
    lsns: LsnRange,
    /// `None`: an empty batch, which has its outcome.
    submitted: Option<Submitted<Store>>,
}

impl Ticket {
    pub(super) fn new(submitted: Submitted<Store>) -> Ticket {
        Ticket { lsns: submitted.lsns(), submitted: Some(submitted) }
    }

    pub(super) fn empty(lsns: LsnRange) -> Ticket {
        Ticket { lsns, submitted: None }
    }

    /// Returns the LSNs of the records. Of an empty batch and of a state, the range is empty.
    #[must_use]
    pub fn lsns(&self) -> LsnRange {
        self.lsns
    }

    /// Waits until the records are durable, and returns their LSNs. Leads the group if no other
    /// thread does. As an append, it may then make spare files.
    ///
    /// # Errors
    /// As the type says.
    pub fn wait(&self) -> Result<LsnRange> {
        self.wait_with(Submitted::wait)
    }

    /// As [`wait`](Ticket::wait), for at most about `timeout`: a thread that leads a group brings
    /// it to its end. With a timeout of zero it waits for nothing and leads nothing.
    ///
    /// # Errors
    /// [`Error::TimedOut`](crate::Error::TimedOut): the records may become durable later. Otherwise
    /// as the type says.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// use std::time::Duration;
    /// assert_eq!(wal.submit("a")?.wait_timeout(Duration::from_secs(10))?.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> Result<LsnRange> {
        self.wait_with(|submitted| submitted.wait_timeout(timeout))
    }

    fn wait_with(&self, wait: impl FnOnce(&Submitted<Store>) -> Result<()>) -> Result<LsnRange> {
        if let Some(submitted) = &self.submitted {
            let _delivery = submitted.commit().events().delivery(Patience::Room);
            wait(submitted)?;
            run_maintenance(submitted.commit());
        }
        Ok(self.lsns)
    }

    /// Returns whether the records are durable. Does not wait.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.submitted.as_ref().is_none_or(Submitted::is_durable)
    }

    /// Sets a callback for the outcome. It is called once, without a lock: it may call the log, and
    /// it may wait for a ticket. The log's helper thread calls it. While it runs, no other callback
    /// runs and no future is woken, so it should not wait long, and it must not block on a future
    /// of this log. The helper catches and logs a panic in it.
    ///
    /// The calling thread calls it, before this returns, in three cases: the batch is empty, the
    /// helper has ended with the log, or the helper cannot be started. In the first and the third
    /// case, a panic in it goes to the caller.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// wal.submit("a")?.on_durable(|outcome| match outcome {
    ///     Ok(lsns) => println!("durable: {lsns}"),
    ///     Err(error) => println!("not known to be durable: {error}"),
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_durable(self, call: impl FnOnce(Result<LsnRange>) + Send + 'static) {
        let lsns = self.lsns;
        let Some(submitted) = self.submitted else { return call(Ok(lsns)) };
        match start_helper(submitted.commit()) {
            Helper::Runs => {
                submitted.on_outcome(Box::new(move |outcome| call(outcome.map(|()| lsns))));
            }
            Helper::CannotStart => {
                let _delivery = submitted.commit().events().delivery(Patience::Room);
                call(submitted.wait().map(|()| lsns));
            }
        }
    }
}

impl Future for Ticket {
    type Output = Result<LsnRange>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<LsnRange>> {
        let lsns = self.lsns;
        let Some(submitted) = &mut self.submitted else { return Poll::Ready(Ok(lsns)) };
        let polled = match start_helper(submitted.commit()) {
            Helper::Runs => submitted.poll(context.waker()),
            Helper::CannotStart => {
                let _delivery = submitted.commit().events().delivery(Patience::Room);
                Poll::Ready(submitted.wait())
            }
        };
        polled.map(|outcome| outcome.map(|()| lsns))
    }
}

pub(super) enum Helper {
    Runs,
    /// The system has no thread for it. The caller waits instead: this blocks, and is right.
    CannotStart,
}

/// Starts the thread that wakes futures and calls callbacks, unless it runs.
pub(super) fn start_helper(commit: &Arc<Commit<Store>>) -> Helper {
    let mut runs = commit.helper_runs();
    if *runs {
        return Helper::Runs;
    }
    let helped = commit.clone();
    let builder = thread::Builder::new().name("seawall-helper".into());
    match builder.spawn(move || helped.run_completions(|| run_maintenance(&helped))) {
        Ok(_) => {
            *runs = true;
            Helper::Runs
        }
        Err(error) => {
            drop(runs); // A logger may call the log.
            log::warn!("callbacks and futures block: no thread could be started: {error}");
            Helper::CannotStart
        }
    }
}
