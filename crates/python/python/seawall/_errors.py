"""The errors of the log. Each names the place, and what to do about it."""

from typing import Optional


class SeawallError(Exception):
    """What failed. `str()` of it has the whole text, the remedy included."""

    #: The file or directory, or None if the failure is not about one.
    path: Optional[str] = None
    #: The position in the file, in bytes, or None.
    offset: Optional[int] = None
    #: What to do about it.
    remedy: str = ""


class IoError(SeawallError):
    """The system refused a call; `__cause__` is its OSError. The log stays usable, unless the next
    call raises PoisonedError."""


class StorageFullError(SeawallError):
    """The disk or the quota is full; `__cause__` is the OSError. Nothing of the call was appended,
    and the log stays usable."""


class CorruptError(SeawallError):
    """Stored bytes contradict the format, or acknowledged bytes are gone. No file was changed."""

    #: The LSNs that are lost: an empty range if none is, None if that is not known.
    lost: Optional[range] = None


class MissingSegmentError(SeawallError):
    """A segment that the log needs is not there. No file was changed."""

    #: The LSNs that are lost: an empty range if none is, None if that is not known.
    lost: Optional[range] = None


class UnsupportedVersionError(SeawallError):
    """The files are sound, and a later release or an unknown codec wrote them."""


class LockedError(SeawallError):
    """Another handle, in this or another process, has the log open."""

    #: The process that has it open, as its lock file says, or None.
    holder: Optional[int] = None


class NotALogError(SeawallError):
    """Files have the names of a log, and this library did not write them."""


class LogNotFoundError(SeawallError):
    """There is no log, and `create_if_missing=False` forbids making one."""


class InvalidOptionError(SeawallError, ValueError):
    """An option is outside its range. Nothing was opened."""


class TooLargeError(SeawallError, ValueError):
    """A record, its meta, a state or a batch is too large. Nothing was written."""


class LsnMismatchError(SeawallError):
    """The next record has another LSN than the caller expected. Nothing was appended."""

    #: What the call expected.
    expected: int = 0
    #: The LSN that the next record has.
    next: int = 0


class TimedOutError(SeawallError, TimeoutError):
    """A wait with a limit ended. Nothing is lost: wait again."""


class OutOfRangeError(SeawallError):
    """The call does not take this LSN."""

    #: What was asked for.
    lsn: int = 0
    #: The lowest LSN that the call takes.
    first: int = 0
    #: The highest LSN that the call takes.
    last: int = 0


class RemovedError(SeawallError):
    """The record is at or below the checkpoint."""

    #: The first LSN that the log still has, or will have.
    first: int = 0


class TruncatedError(SeawallError):
    """A truncation removed the record. Make a new reader."""

    #: The last record that was kept.
    last: int = 0


class QueueFullError(SeawallError):
    """Too much is pending. Nothing was appended."""


class DisplacedError(SeawallError):
    """The directory or the newest segment was removed or replaced while the log was open."""


class PoisonedError(SeawallError):
    """An earlier write or sync failed; `__cause__` is that error. Close the log, open it again, and
    look before you append the record of the failed call again."""

    #: The last record that is surely on disk.
    durable: int = 0


class PanickedError(SeawallError):
    """A thread panicked inside the log. Please report it."""


class ClosedError(SeawallError):
    """The log was closed."""
