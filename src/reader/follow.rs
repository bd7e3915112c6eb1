//! `Follower`: each record once, in order, as soon as it is visible.

use std::iter::FusedIterator;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::catalog::Segments;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::threads::thread;

use super::cursor::Cursor;
use super::record::Record;

/// Yields each durable record after a position once, in order, and waits for more. From
/// [`Wal::follow`](crate::Wal::follow).
///
/// It goes on across rotations, checkpoints and truncations. It is an iterator whose
/// [`next`](Iterator::next) blocks, and it has a [`poll_next`](Follower::poll_next) for tasks. An
/// append pays the same for a thousand waiting followers as for one: it wakes one thread, and each
/// woken thread wakes two more. While nothing is appended, a follower costs nothing.
///
/// # The end
/// It ends when the log is closed, after the last record that was durable then. A segment that is
/// missing after the close ends it too, because the log may have been opened again:
/// [`position`](Follower::position) tells from where a follower of the next open log has to go on.
///
/// It fails with [`Error::Removed`] if a checkpoint has removed the next record, with
/// [`Error::Truncated`] if a truncation or a reset has removed a record that it has yielded, and
/// with [`Error::Poisoned`] on a poisoned log, after the last durable record. It yields an error
/// once, and nothing after that.
///
/// # Beside a writer in another process
/// A follower of a [`ReadOnlyWal`](crate::ReadOnlyWal) looks at the files each 10 ms while it
/// waits. It does not learn of the writer's close, so it has no end. An error of
/// [`refresh`](crate::ReadOnlyWal::refresh) is its error, except
/// [`Error::TimedOut`](crate::Error::TimedOut): then it looks again.
///
/// A look reads the files, and it waits while another thread refreshes the handle. If the writer
/// changes the files all the time, a look may take up to
/// [`Options::read_only_patience`](crate::Options::read_only_patience).
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let wal = seawall::Wal::open(dir.path())?;
/// wal.append("a")?;
/// let follower = wal.follow(seawall::Lsn::ZERO);
/// let reads = std::thread::spawn(move || follower.count());
/// wal.append("b")?;
/// wal.close()?;
/// assert_eq!(reads.join().expect("it counts"), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Follower {
    cursor: Cursor,
    is_over: bool,
    failure: Option<Error>,
    /// The number under which its waker is known.
    owner: Option<u64>,
}

/// A follower of a log that another process writes looks at its files after so much time.
const LOOK_AFTER: Duration = Duration::from_millis(10);

/// What a look at the log finds.
enum Look {
    Record(Record),
    NothingNew,
    End,
}

impl Follower {
    pub(crate) fn new(segments: &Arc<Segments>, after: Lsn) -> Follower {
        let cursor = Cursor::following(segments, after.next());
        Follower { cursor, is_over: false, failure: None, owner: None }
    }

    /// Returns the LSN of the record that was yielded last, or the position at which the follower
    /// was made.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.cursor.next.previous()
    }

    /// Returns why the follower failed, or `None` if it did not fail.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Returns the next record if it is there, without waiting for an append. Otherwise as
    /// [`next_timeout`](Follower::next_timeout) with a timeout of zero. Beside a writer in another
    /// process, it looks at the files once, which may
    /// [take longer](Follower#beside-a-writer-in-another-process).
    pub fn try_next(&mut self) -> Option<Result<Record>> {
        self.step().unwrap_or(Some(Err(Error::TimedOut)))
    }

    /// Returns the next record, and waits for it for `timeout` at most. Returns
    /// [`Error::TimedOut`] if there is none by then: the follower goes on, and the next call waits
    /// again. Beside a writer in another process, the last look at the files may
    /// [take longer](Follower#beside-a-writer-in-another-process).
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// use std::time::Duration;
    /// use seawall::Error;
    /// let mut follower = wal.follow(wal.durable_lsn());
    /// let nothing = follower.next_timeout(Duration::from_millis(1));
    /// assert!(matches!(nothing, Some(Err(Error::TimedOut))));
    /// wal.append("debit 7")?;
    /// let record = follower.next_timeout(Duration::from_secs(10)).expect("the log is open")?;
    /// assert_eq!(record.payload(), b"debit 7");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn next_timeout(&mut self, timeout: Duration) -> Option<Result<Record>> {
        let deadline = self.cursor.segments.now().saturating_add(timeout);
        self.next_until(Some(deadline))
    }

    /// Polls for the next record, in the shape of `Stream::poll_next`. If there is none yet, the
    /// task is woken when the log changes. The call reads from the disk in the thread of the task.
    /// Beside a writer in another process, the task is woken each 10 ms, and each call looks at the
    /// files, which may [take longer](Follower#beside-a-writer-in-another-process).
    ///
    /// The first call that finds nothing starts one thread for all followers of the log, which
    /// calls wakers. If it cannot be started, the call returns [`Error::Io`], and the next call
    /// tries again. With the crate `futures`,
    /// `futures::stream::poll_fn(|task| Pin::new(&mut follower).poll_next(task))` is a stream.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// use std::pin::Pin;
    /// use std::task::{Context, Waker};
    /// let mut follower = wal.follow(wal.durable_lsn());
    /// let mut task = Context::from_waker(Waker::noop());
    /// assert!(Pin::new(&mut follower).poll_next(&mut task).is_pending());
    /// wal.append("debit 7")?;
    /// assert!(Pin::new(&mut follower).poll_next(&mut task).is_ready());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn poll_next(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<Record>>> {
        let follower = self.get_mut();
        if let Some(ready) = follower.step() {
            return Poll::Ready(ready);
        }
        let segments = follower.cursor.segments.clone();
        let waiters = &segments.watch.waiters;
        let owner = *follower.owner.get_or_insert_with(|| waiters.new_owner());
        waiters.set_waker(owner, task.waker());
        let ready = match start_waker_thread(&segments) {
            // The task is polled again in a moment, and a look at the files takes time.
            Ok(()) if segments.is_written_elsewhere() => None,
            Ok(()) => follower.step(),
            Err(error) => Some(Some(Err(error))),
        };
        match ready {
            Some(ready) => {
                waiters.forget_waker(owner);
                Poll::Ready(ready)
            }
            None => Poll::Pending,
        }
    }

    fn next_until(&mut self, deadline: Option<Duration>) -> Option<Result<Record>> {
        loop {
            // Asked before the look: what changes after the look ends the wait.
            let seen = self.cursor.segments.watch.waiters.last_change();
            if let Some(ready) = self.step() {
                return ready;
            }
            let segments = &self.cursor.segments;
            let left = || deadline.map(|deadline| deadline.saturating_sub(segments.now()));
            if left() == Some(Duration::ZERO) {
                return Some(Err(Error::TimedOut));
            }
            let look_again = segments.now().saturating_add(LOOK_AFTER);
            let pause = || {
                if !segments.is_written_elsewhere() {
                    return left();
                }
                let pause = look_again.saturating_sub(segments.now());
                Some(left().map_or(pause, |left| left.min(pause)))
            };
            segments.watch.waiters.wait(seen, pause, |time| segments.slept(time));
        }
    }

    /// Takes the next record, the error or the end; `None` if there is nothing new.
    fn step(&mut self) -> Option<Option<Result<Record>>> {
        if self.is_over {
            return Some(None);
        }
        match self.look() {
            Ok(Look::NothingNew) => None,
            Ok(Look::Record(record)) => Some(Some(Ok(record))),
            Ok(Look::End) => {
                self.is_over = true;
                Some(None)
            }
            Err(error) => {
                self.is_over = true;
                self.failure = Some(error.clone());
                Some(Some(Err(error)))
            }
        }
    }

    fn look(&mut self) -> Result<Look> {
        let cursor = &mut self.cursor;
        let mut has_refreshed = !cursor.segments.is_written_elsewhere();
        loop {
            // Asked before the look: every record that became visible before the end is found.
            let health = cursor.segments.health();
            let is_closed = matches!(health, Err(Error::Closed));
            let read = match cursor.next <= cursor.limit {
                true => cursor.advance(),
                false => Ok(false),
            };
            match read {
                Ok(true) => return Ok(Look::Record(cursor.lend().to_record())),
                Ok(false) => {}
                // What comes instead of the removed records continues those that were yielded.
                Err(_) if cursor.was_cut() => {}
                // A later owner of the log may have removed the segment.
                Err(Error::MissingSegment { .. }) if is_closed => return Ok(Look::End),
                // The writer changes the files all the time: the next look may succeed.
                Err(Error::TimedOut) => {
                    cursor.recover();
                    return Ok(Look::NothingNew);
                }
                Err(error) => return Err(error),
            }
            match (cursor.extend(), health) {
                (Err(error), _) => return Err(error),
                (Ok(true), _) => {}
                (Ok(false), Ok(())) if has_refreshed => return Ok(Look::NothingNew),
                (Ok(false), Ok(())) => {
                    has_refreshed = true;
                    match cursor.segments.refresh() {
                        Ok(_) | Err(Error::TimedOut) => {}
                        Err(error) => return Err(cursor.fail(Some(error))),
                    }
                }
                (Ok(false), Err(Error::Closed)) => {
                    return cursor.segments.poisoned().map_or(Ok(Look::End), Err);
                }
                (Ok(false), Err(poisoned)) => return Err(poisoned),
            }
        }
    }
}

impl Iterator for Follower {
    type Item = Result<Record>;

    /// Returns the next record, and waits for it. Returns `None` after the log was closed.
    fn next(&mut self) -> Option<Result<Record>> {
        self.next_until(None)
    }
}

impl FusedIterator for Follower {}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(owner) = self.owner {
            self.cursor.segments.watch.waiters.forget_waker(owner);
        }
    }
}

/// Starts the thread that calls the wakers of followers, if it does not run yet. It ends when the
/// log is closed. Where another process writes the log, it ends when no task waits.
fn start_waker_thread(segments: &Arc<Segments>) -> Result<()> {
    segments.watch.waiters.start_waker_thread(|| {
        let served = segments.clone();
        let builder = thread::Builder::new().name("seawall-follow".into());
        let serve = move || {
            let waiters = &served.watch.waiters;
            if served.is_written_elsewhere() {
                waiters.serve_wakers_each(LOOK_AFTER);
            } else {
                waiters.serve_wakers(|| served.check_open().is_err());
            }
        };
        builder.spawn(serve).map(drop).map_err(|error| {
            Error::io("start the thread for followers of", segments.dir_path(), error)
        })
    })
}
