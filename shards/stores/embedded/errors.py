"""What SQLite says, in the words of the contract, and what an operator is told of a data directory.

The one place where errors of the driver are translated; nothing above this package knows them.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

import apsw

from shards.contract import Corrupt, Full, Invalid, StoreError, Unavailable

_NOTHING_WRITTEN: Final[tuple[tuple[type[apsw.Error], type[StoreError], str], ...]] = (
    # SQLite reports FULL while it appends to the log, before the frame that would commit: nothing is kept.
    (apsw.FullError, Full, "the disk is full"),
    (apsw.CorruptError, Corrupt, "the file is damaged; restore it from a backup"),
    (apsw.NotADBError, Corrupt, "the file is not a database; restore it from a backup"),
    # These are found out when a statement begins, that is before it writes.
    (apsw.BusyError, Unavailable, "another process keeps the file locked"),
    (apsw.LockedError, Unavailable, "another connection keeps the file locked"),
    (apsw.ProtocolError, Unavailable, "the locks of the file are contended"),
    (apsw.ReadOnlyError, Unavailable, "the file is read-only"),
    (apsw.PermissionsError, Unavailable, "the permission on the file is missing"),
    (apsw.CantOpenError, Unavailable, "the file cannot be opened"),
    (apsw.TooBigError, Invalid, "a value is larger than the store can take"),
    (apsw.MismatchError, Invalid, "a value is not of its column's type"),
    (apsw.ConstraintError, Invalid, "a row breaks the schema"),
)


VALUE_ERRORS: Final = (UnicodeEncodeError, TypeError, ValueError, OverflowError)
"""What the driver raises for a value that it cannot even hand to SQLite, such as a customer that is no valid text."""


class DataDirError(StoreError):
    """A data directory, a file of it or a backup cannot be used. The text is one line for the operator."""


class DataDirLocked(DataDirError):
    """Another server uses the data directory."""


class DataDirNewer(DataDirError):
    """The data directory was written by a newer version of Crest, or is no data directory of Crest."""


class DataDirCorrupt(DataDirError, Corrupt):
    """A file of the data directory is damaged or missing."""


class DataDirFull(DataDirError, Full):
    """The disk of the data directory is full."""


def extended_result(error: apsw.Error) -> int:
    """Returns SQLite's extended result code, or 0 for an error of the driver itself."""
    return int(getattr(error, "extendedresult", 0))  # missing from the driver's type stubs


def invalid(error: Exception, path: Path) -> Invalid:
    """Returns the contract's error for one of ``VALUE_ERRORS``; raise it ``from`` the original."""
    return Invalid(f"{path.name}: a value that the store cannot take ({error})")


def store_error(error: apsw.Error, path: Path) -> StoreError:
    """Returns the contract's error for one of SQLite's; raise it ``from`` the original.

    An error that is not known to come before the first byte is written (an I/O error, above all) stays a plain
    ``StoreError``, whose outcome is unknown.
    """
    for theirs, ours, text in _NOTHING_WRITTEN:
        if isinstance(error, theirs):
            return ours(f"{path.name}: {text} ({error})")
    if extended_result(error) == apsw.SQLITE_IOERR_CORRUPTFS:
        return Corrupt(f"{path.name}: the file system reports damage ({error})")
    return StoreError(f"{path.name}: {type(error).__name__} ({error})")


FORESEEN: Final = (StoreError, apsw.Error, *VALUE_ERRORS, OSError)
"""What a job of a writing connection may fail with; see ``job_error``."""


def job_error(error: Exception, path: Path) -> StoreError:
    """Returns what a job of a writing connection failed with, of one of ``FORESEEN``; the original is its cause."""
    if isinstance(error, StoreError):
        return error
    told: StoreError
    if isinstance(error, apsw.Error):
        told = store_error(error, path)
    elif isinstance(error, OSError):  # of the gate: nothing was written
        told = Unavailable(f"{path.name}: no turn to write ({error})")
    else:
        told = invalid(error, path)
    told.__cause__ = error
    return told


def data_dir_error(error: apsw.Error | OSError, path: Path) -> DataDirError:
    """Returns the operator's error for a file or directory that could not be prepared, opened or copied."""
    if isinstance(error, apsw.Error):
        told = store_error(error, path)
        kind = {Corrupt: DataDirCorrupt, Full: DataDirFull}.get(type(told), DataDirError)
        return kind(f"{path.parent}: {told}")
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DataDirFull(f"{path}: the disk is full")
    return DataDirError(f"{path}: {error.strerror or error}")
