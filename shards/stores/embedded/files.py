"""Files of the embedded store: their schema, their version, and how a connection to one is opened.

Schema of a shard's file, version 1; of the control file, version 2 (``upgrade_control`` makes it of version 1).
``orders`` is kept in the order of its key, which begins with the time of the request: rows of one group commit lie side
by side and dirty few pages (random keys cost four times as much). ``gen`` is part of the key, so that a slot that moves
away and comes back never meets the rows of its earlier stay. The version of a row is the length of its marks and is
stored nowhere else.
"""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import Final

import apsw

from shards.stores.embedded.errors import DataDirCorrupt, DataDirError, DataDirNewer, data_dir_error

SQLITE_VERSION_MIN: Final = (3, 51, 3)
"""Older ones can lose a commit when several connections race to restart the log (sqlite.org/wal.html, 3.51.3)."""

_PAGE_BYTES: Final = 4096
_CACHE_KIB: Final = 16 * 1024
_BUSY_TIMEOUT_MS: Final = 5000  # for opening and recovering; writers of shards wait as ``turns`` says
_CHECKPOINT_PAGES: Final = 8192
"""Pages (32 MiB) in the log before a commit copies them into the file: the index is dirtied at random, and a page
dirtied often between two checkpoints is copied once. Measured: 1,000 pages halve the rate of a file of 300,000 rows."""
_STATEMENTS_MAX: Final = 32

_SHARD_SCHEMA: Final = """
CREATE TABLE orders (
    order_id BLOB NOT NULL CHECK (length(order_id) = 16),
    gen INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    tag INTEGER NOT NULL,
    customer TEXT NOT NULL,
    marks BLOB NOT NULL,  -- 32 bytes a version: 16 of the request id, 16 of the digest of its payload
    body BLOB NOT NULL,
    PRIMARY KEY (order_id, gen)
) WITHOUT ROWID, STRICT;
CREATE INDEX orders_by_customer ON orders (slot, gen, tag, order_id);
CREATE TABLE sealed (bucket INTEGER PRIMARY KEY) STRICT;
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID, STRICT;
"""

_FACTS: Final = """
CREATE TABLE facts (
    scope TEXT NOT NULL,
    name TEXT NOT NULL,
    revision INTEGER NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (scope, name)
) WITHOUT ROWID, STRICT;
"""

_CONTROL_SCHEMA: Final = f"""
{_FACTS}
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID, STRICT;
"""

_CONTROL_FROM_1: Final = (
    _FACTS,
    "INSERT INTO facts SELECT 'topology', 'current', epoch, topology FROM topology",
    "DROP TABLE topology",
)


class Kind(enum.Enum):
    """What a file holds; the value is its ``PRAGMA application_id``."""

    SHARD = 0x43725368  # "CrSh"
    CONTROL = 0x43724374  # "CrCt"


SCHEMA_VERSIONS: Final = {Kind.SHARD: 1, Kind.CONTROL: 2}
"""``PRAGMA user_version`` of a file; a larger one was written by a newer Crest and is refused."""

_SCHEMAS: Final = {Kind.SHARD: _SHARD_SCHEMA, Kind.CONTROL: _CONTROL_SCHEMA}


def create_file(path: Path, kind: Kind, about: dict[str, str]) -> None:
    """Creates a file of the present schema with the given facts about it; does nothing where it is complete.

    Killed half-way it leaves an empty file, which the next call fills: schema, facts and version are one commit.
    Raises ``DataDirError``.
    """
    check_sqlite()
    try:
        connection = apsw.Connection(str(path))
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        try:
            if _is_empty(connection):
                connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
                _configure(connection, path)
                with connection:
                    connection.execute(_SCHEMAS[kind])
                    write_about(connection, about)
                    connection.execute(f"PRAGMA application_id = {kind.value}")
                    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSIONS[kind]}")
        finally:
            connection.close()
    except apsw.Error as error:
        raise data_dir_error(error, path) from error


def upgrade_control(path: Path) -> None:
    """Brings a control file of an older schema to the present one, in one commit; does nothing to one that is.

    Nobody else may have it open. Raises ``DataDirError``.
    """
    check_sqlite()
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        try:
            if connection.pragma("application_id") != Kind.CONTROL.value or connection.pragma("user_version") != 1:
                return  # opening it tells what it is
            with connection:
                for step in _CONTROL_FROM_1:
                    connection.execute(step)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSIONS[Kind.CONTROL]}")
        finally:
            connection.close()
    except apsw.Error as error:
        raise data_dir_error(error, path) from error


def is_begun(path: Path) -> bool:
    """Tells whether a file exists and holds a schema: ``create_file`` commits that together with all else."""
    if not path.is_file():
        return False
    try:
        connection = apsw.Connection(str(path))
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        try:
            return not _is_empty(connection)
        finally:
            connection.close()
    except apsw.Error as error:
        raise data_dir_error(error, path) from error


def open_file(path: Path, kind: Kind, *, immutable: bool = False) -> apsw.Connection:
    """Opens an existing file and checks that it is of this kind and of a schema we know.

    ``immutable`` is for a file of a backup, which nobody writes to: no lock is taken and nothing put beside it.
    Raises ``DataDirError``.
    """
    check_sqlite()
    if not path.is_file():
        raise DataDirCorrupt(f"{path}: the file is missing; restore it from a backup")
    if not immutable and not os.access(path, os.W_OK):  # SQLite would fall back to reading without a word
        raise DataDirError(f"{path}: the file is read-only")
    try:
        if immutable:
            connection = apsw.Connection(
                f"{path.absolute().as_uri()}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
            )
        else:
            connection = apsw.Connection(
                str(path), flags=apsw.SQLITE_OPEN_READWRITE, statementcachesize=_STATEMENTS_MAX
            )
    except apsw.Error as error:
        raise data_dir_error(error, path) from error
    try:
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)  # first of all: others may be opening or recovering it
        _check_header(connection, path, kind, oldest=1 if immutable else SCHEMA_VERSIONS[kind])
        if not immutable:
            _configure(connection, path)
    except apsw.Error as error:
        connection.close()
        raise data_dir_error(error, path) from error
    except DataDirError:
        connection.close()
        raise
    return connection


def read_about(connection: apsw.Connection) -> dict[str, str]:
    """Returns the facts that ``create_file`` and ``write_about`` wrote. Raises ``apsw.Error``."""
    return {str(name): str(value) for name, value in connection.execute("SELECT name, value FROM about")}


def write_about(connection: apsw.Connection, about: dict[str, str]) -> None:
    """Adds or replaces facts, durably. Raises ``apsw.Error``."""
    with connection:
        connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about.items())


def check_sqlite() -> None:
    """Raises ``DataDirError`` when the SQLite in use is too old or was built without what the store needs."""
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if version < SQLITE_VERSION_MIN:
        need = ".".join(map(str, SQLITE_VERSION_MIN))
        raise DataDirError(f"SQLite {apsw.sqlite_lib_version()} can lose commits; install an apsw with {need} or later")
    if "ENABLE_CARRAY" not in apsw.compile_options:
        raise DataDirError("this build of apsw lacks the carray extension; install the one from PyPI")


def _is_empty(connection: apsw.Connection) -> bool:
    return bool(connection.execute("SELECT count(*) FROM sqlite_schema").get == 0)


def _check_header(connection: apsw.Connection, path: Path, kind: Kind, *, oldest: int) -> None:
    application_id = connection.pragma("application_id")
    version = connection.pragma("user_version")
    if application_id == 0 and version == 0 and _is_empty(connection):
        raise DataDirCorrupt(f"{path}: the file is empty; restore it from a backup")
    if application_id != kind.value:
        raise DataDirNewer(f"{path}: not a {kind.name.lower()} file of Crest (application_id {application_id:#x})")
    known = SCHEMA_VERSIONS[kind]
    if version > known:
        raise DataDirNewer(
            f"{path}: schema version {version}, but this Crest knows version {known}; run the version that wrote it"
        )
    if version < oldest:
        raise DataDirError(f"{path}: schema version {version}; the server brings it to version {known} when it starts")


def _configure(connection: apsw.Connection, path: Path) -> None:
    mode = connection.pragma("journal_mode", "wal")
    if mode != "wal":
        raise DataDirError(f"{path}: the file system does not support shared memory (journal mode {mode!r})")
    connection.execute(f"""
        PRAGMA synchronous = FULL;  -- fsync of the log at each commit, before it is acknowledged or seen
        PRAGMA cache_size = -{_CACHE_KIB};
        PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES};
        PRAGMA journal_size_limit = {_CHECKPOINT_PAGES * _PAGE_BYTES};
        PRAGMA trusted_schema = OFF;
        PRAGMA cell_size_check = ON;  -- notices a damaged page before it is changed
    """)
