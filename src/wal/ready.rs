//! `Ready`: room for a submission, as a future.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::commit::AwaitedRoom;
use crate::error::Result;
use crate::frame::RECORD_HEADER_BYTES;
use crate::observer::Patience;
use crate::store::Store;

use super::Wal;
use super::ticket::{Helper, start_helper};

/// A future that completes when there is room for an entry.
///
/// [`Wal::ready`](crate::Wal::ready) returns it, and says when it completes. It is a [`Future`] on
/// any executor. Several of them complete in the order of their first polls. Dropping one leaves
/// nothing.
///
/// The first poll starts the helper thread of the log, as the first poll of a
/// [`Ticket`](crate::Ticket) does. If the system has no thread for it, the poll blocks until there
/// is room.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is polled"]
pub struct Ready {
    room: AwaitedRoom<Store>,
}

impl Wal {
    /// Waits, as a future, until an entry of `bytes` can be submitted without blocking.
    ///
    /// An event loop that awaits this before each [`submit`](Wal::submit) never blocks, and never
    /// gets [`Error::QueueFull`](crate::Error::QueueFull), as long as no other thread appends to
    /// the log. The call reserves nothing: between the completion and the submission, another
    /// caller may take the room. Threads that wait for room go first. A task that does anything
    /// else in between awaits `ready` again.
    ///
    /// `bytes` are the payload and the meta of the entry, or the bytes of a state. For a batch,
    /// they are those of all its entries, and 8 more for each entry after the first. If `bytes`
    /// exceed [`pending_bytes_max`](crate::Options::pending_bytes_max), the future completes when
    /// nothing is pending. The helper thread writes what is pending if that is needed to make room:
    /// in each mode, also if no thread waits for it. With
    /// [`Durability::Buffered`](crate::Durability::Buffered), it also writes a full buffer, which
    /// the next submission would have to write.
    ///
    /// # Errors
    /// [`Error::Poisoned`](crate::Error::Poisoned), [`Error::Closed`](crate::Error::Closed). With
    /// [`Durability::Buffered`](crate::Durability::Buffered) also
    /// [`Error::StorageFull`](crate::Error::StorageFull) and [`Error::Io`](crate::Error::Io):
    /// records wait in memory, and the disk has no room for them, or no file can be made. A
    /// submission would be refused, too.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// wal.ready("debit 7".len()).await?;
    /// let ticket = wal.submit("debit 7")?; // Does not block.
    /// assert_eq!(ticket.await?.first(), seawall::Lsn::FIRST);
    /// # Ok::<(), seawall::Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ready(&self, bytes: usize) -> Ready {
        let bytes = bytes.saturating_add(RECORD_HEADER_BYTES);
        Ready { room: AwaitedRoom::new(&self.commit, bytes) }
    }
}

impl Future for Ready {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        match start_helper(self.room.commit()) {
            Helper::Runs => self.room.poll(context.waker()),
            Helper::CannotStart => {
                let _delivery = self.room.commit().events().delivery(Patience::Room);
                Poll::Ready(self.room.wait())
            }
        }
    }
}
