"""The data directory: who owns it, which files it must hold, and that they are ours.

::

    LOCK                            held (flock) while a supervisor or any of its workers lives; names the supervisor
    LOCK.movers                     held (flock, shared) by every mover that works on it, beside a server or without
    control.db                      identity of the directory, number of shards, and the facts its processes agree by
    shard-0.db, shard-1.db ...      the orders; -wal and -shm beside them while they are open
    shard-0.db.gate ...             locks by which writers take turns

Every shard's file carries the identity of its directory and its number, so that files of different directories,
or of one directory in another order, are noticed before they are served.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import apsw

from shards.stores.embedded.errors import DataDirCorrupt, DataDirError, DataDirLocked, data_dir_error
from shards.stores.embedded.files import (
    Kind,
    create_file,
    is_begun,
    open_file,
    read_about,
    upgrade_control,
    write_about,
)

SHARDS_MAX: Final = 64
"""Files of one directory: each costs every worker two threads."""

_LOCK: Final = "LOCK"
_MOVERS: Final = "LOCK.movers"
_EMPTY: Final = frozenset({_LOCK, _MOVERS, "lost+found", "control.db", "control.db-wal", "control.db-shm"})
"""What an empty directory may hold: a control file, too, where its creation was cut off before its one commit."""
_PREPARING: Final = "preparing"
_READY: Final = "ready"
_MADE_WITH: Final = "made_with"
"""Number of shards before the first was added: what the settings may go on to say."""


def control_path(data_dir: Path) -> Path:
    """Returns where the control file of a data directory is."""
    return data_dir / "control.db"


def shard_path(data_dir: Path, shard: int) -> Path:
    """Returns where the file of a shard is."""
    return data_dir / f"shard-{shard}.db"


def prepare(data_dir: Path, shards: int) -> int:
    """Takes the directory, creates it with ``shards`` empty files or checks those that are there.

    Called once, before the first worker starts. Returns the descriptor of the lock: inheritable, and the directory is
    ours as long as this process or any that inherits it keeps it open. Killed half-way it is made again by the next
    call; once the directory is complete a missing file is never replaced by an empty one.

    Raises ``DataDirError``: ``DataDirLocked`` (names the process), ``DataDirNewer``, ``DataDirCorrupt``,
    ``DataDirFull``, or itself for a directory that is not ours, holds another number of shards or cannot be written.
    """
    if not 1 <= shards <= SHARDS_MAX:
        raise DataDirError(f"{shards} shards: 1 to {SHARDS_MAX} are possible")
    lock = take(data_dir)
    try:
        if not is_begun(control_path(data_dir)):
            refuse_strangers(data_dir)
        else:
            _upgrade(data_dir)
        _create(data_dir, shards)
        found = check(data_dir)
    except BaseException:
        os.close(lock)
        raise
    if shards not in {found, _made_with(data_dir)}:
        os.close(lock)
        raise DataDirError(f"{data_dir}: holds {found} shards, but {shards} are asked for; set the number to {found}")
    return lock


def join(data_dir: Path) -> int:
    """Takes a directory that was prepared once, to be served beside clusters; returns as ``prepare`` does."""
    if not is_begun(control_path(data_dir)):
        raise DataDirError(f"{data_dir}: no data directory of Crest yet; serve it once with the store embedded")
    lock = take(data_dir)
    try:
        _upgrade(data_dir)
        check(data_dir)
    except BaseException:
        os.close(lock)
        raise
    return lock


def admit(data_dir: Path) -> int:
    """Lets a mover work on a directory, which may be served meanwhile; it must have been prepared.

    Returns a descriptor that the mover keeps open as long as it has files of the directory open: its schema is not
    changed meanwhile. Any number of movers are admitted. Raises ``DataDirError``.
    """
    check(data_dir)
    lock = _lock_of_movers(data_dir)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise DataDirLocked(f"{data_dir}: a server is bringing its files to a newer schema; try again") from error
    return lock


def add_shard(data_dir: Path, shard: int) -> None:
    """Makes the file of a shard more, in a directory that may be served meanwhile; nothing where it is there.

    Killed half-way it is made again by the next call. Raises ``DataDirError``.
    """
    if shard >= SHARDS_MAX:
        raise DataDirError(f"shard {shard}: a data directory has at most {SHARDS_MAX}")
    try:
        with opened(control_path(data_dir), Kind.CONTROL) as control:
            about = read_about(control)
            shards = int(about["shards"])
            if shard < shards:
                return
            for number in range(shards, shard + 1):
                identity = {"directory": about["directory"], "shard": str(number)}
                create_file(shard_path(data_dir, number), Kind.SHARD, identity)
            sync_directory(data_dir)
            write_about(control, {"shards": str(shard + 1), _MADE_WITH: about.get(_MADE_WITH, about["shards"])})
    except OSError as error:
        raise data_dir_error(error, data_dir) from error


def take(data_dir: Path) -> int:
    """Creates the directory where it is missing and locks it; returns the lock's descriptor.

    Raises ``DataDirError``, of which ``DataDirLocked`` names the process that holds it.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(data_dir / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataDirError(f"{data_dir}: it, or a part of its path, is a file and no directory") from error
    except OSError as error:
        raise data_dir_error(error, data_dir) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise DataDirLocked(f"{data_dir}: in use by process {holder} or by a worker of it") from error
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        os.close(lock)
        raise data_dir_error(error, data_dir) from error
    os.set_inheritable(lock, True)  # noqa: FBT003  # the function of the standard library
    return lock


def _upgrade(data_dir: Path) -> None:
    lock = _lock_of_movers(data_dir)
    try:
        with contextlib.suppress(BlockingIOError):  # movers work on it, so it is of the present schema, or theirs
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            upgrade_control(control_path(data_dir))
    finally:
        os.close(lock)


def _lock_of_movers(data_dir: Path) -> int:
    try:
        return os.open(data_dir / _MOVERS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise data_dir_error(error, data_dir) from error


def refuse_strangers(data_dir: Path) -> None:
    """Raises ``DataDirError`` when the directory, whose control file holds nothing, holds anything else."""
    strangers = sorted(entry.name for entry in data_dir.iterdir() if entry.name not in _EMPTY)
    if strangers:
        raise DataDirError(f"{data_dir}: not a data directory of Crest, and not empty (it holds {strangers[0]!r})")


def check(data_dir: Path) -> int:
    """Checks that every file is there and ours; returns the number of shards. Raises ``DataDirError``."""
    path = control_path(data_dir)
    with opened(path, Kind.CONTROL) as control:
        about = read_about(control)
    if about.get("state") != _READY or not about.get("shards", "").isdigit() or "directory" not in about:
        raise DataDirCorrupt(f"{path}: the facts about the directory are incomplete; restore it from a backup")
    shards = int(about["shards"])
    for shard in range(shards):
        path = shard_path(data_dir, shard)
        with opened(path, Kind.SHARD) as connection:
            found = read_about(connection)
        if found.get("directory") != about["directory"]:
            raise DataDirCorrupt(f"{path}: the file belongs to another data directory")
        if found.get("shard") != str(shard):
            raise DataDirCorrupt(f"{path}: the file is that of shard {found.get('shard', 'unknown')}")
    return shards


@contextlib.contextmanager
def opened(path: Path, kind: Kind, *, immutable: bool = False) -> Iterator[apsw.Connection]:
    """A connection for the length of a block; the driver's errors in it become ``DataDirError``."""
    connection = open_file(path, kind, immutable=immutable)
    try:
        yield connection
    except apsw.Error as error:
        raise data_dir_error(error, path) from error
    finally:
        connection.close()


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable. Raises ``OSError``."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _made_with(data_dir: Path) -> int:
    with opened(control_path(data_dir), Kind.CONTROL) as control:
        about = read_about(control)
    return int(about.get(_MADE_WITH, about["shards"]))


def _create(data_dir: Path, shards: int) -> None:
    path = control_path(data_dir)
    try:
        new = {"directory": secrets.token_hex(16), "shards": str(shards), "state": _PREPARING}
        create_file(path, Kind.CONTROL, new)
        with opened(path, Kind.CONTROL) as control:
            about = read_about(control)
            if about.get("state") != _PREPARING:
                return
            for shard in range(int(about["shards"])):
                identity = {"directory": about["directory"], "shard": str(shard)}
                create_file(shard_path(data_dir, shard), Kind.SHARD, identity)
            sync_directory(data_dir)
            sync_directory(data_dir.parent)
            write_about(control, {"state": _READY})
    except OSError as error:
        raise data_dir_error(error, data_dir) from error
