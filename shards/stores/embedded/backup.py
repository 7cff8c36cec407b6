"""Backup of a data directory while it is served, restore into an empty one, and all rows for an export."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import apsw

from shards.contract import Row
from shards.facts import Fact
from shards.homes import Step, passing_of
from shards.stores.embedded import statements
from shards.stores.embedded.datadir import (
    check,
    control_path,
    opened,
    refuse_strangers,
    shard_path,
    sync_directory,
    take,
)
from shards.stores.embedded.errors import DataDirCorrupt, DataDirError, data_dir_error
from shards.stores.embedded.files import SCHEMA_VERSIONS, Kind, upgrade_control
from shards.topology import Topology, TopologyDamaged

MANIFEST: Final = "manifest.json"
"""Written last: a directory without one is no complete backup."""

_FORMAT: Final = 1
_SCHEMA: Final = SCHEMA_VERSIONS[Kind.CONTROL]
_TOPOLOGY: Final = "SELECT value FROM facts WHERE scope = 'topology' AND name = 'current'"
_CHUNK_ROWS: Final = 1000
_CHUNK_BYTES: Final = 1024 * 1024
_PARTIAL: Final = ".partial"


def backup(data_dir: Path, target: Path) -> int:
    """Copies every file into ``target`` (missing or empty) and returns the number of rows in the copy.

    The directory may be served meanwhile. Each file is copied as it was at one moment, and all that was acknowledged
    before the call is in the copy. The copies are checked, and described in ``manifest.json`` with their digests.
    Raises ``DataDirError``; a directory without a manifest is then left behind.
    """
    shards = check(data_dir)
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise DataDirError(f"{target}: not empty; a backup goes into a directory of its own")
        epoch = _epoch(data_dir)
        files = [_copy(control_path(data_dir), target, Kind.CONTROL)]
        files += [_copy(shard_path(data_dir, shard), target, Kind.SHARD) for shard in range(shards)]
        if _epoch(data_dir) != epoch:
            raise DataDirError(f"{data_dir}: the topology changed during the backup; remove {target} and try again")
        manifest = {"format": _FORMAT, "schema": _SCHEMA, "made_at_unix_s": int(time.time()), "files": files}
        partial = target / (MANIFEST + _PARTIAL)
        partial.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        _sync_file(partial)
        partial.rename(target / MANIFEST)
        sync_directory(target)
    except OSError as error:
        raise data_dir_error(error, target) from error
    return sum(int(file["rows"]) for file in files)


def restore(source: Path, data_dir: Path) -> int:
    """Makes a data directory of a backup and returns its number of rows.

    First everything is checked: the manifest, each file's digest, its structure and its rows, and that ``data_dir`` is
    missing or empty. The control file comes last and makes the directory valid: a restore that was cut off leaves one
    that ``prepare`` refuses. Raises ``DataDirError``.
    """
    files = _verify(source)
    lock = take(data_dir)
    try:
        if control_path(data_dir).exists():
            raise DataDirError(f"{data_dir}: not empty; a backup is restored into an empty directory only")
        refuse_strangers(data_dir)
        control = control_path(data_dir)
        for file in files:
            copied = data_dir / (file["name"] + _PARTIAL)
            shutil.copyfile(source / file["name"], copied)
            _sync_file(copied)
            if _digest(copied) != file["sha256"]:
                raise DataDirCorrupt(f"{copied}: differs from the backup after copying")
            if file["name"] != control.name:
                copied.rename(data_dir / file["name"])
        sync_directory(data_dir)
        control.with_name(control.name + _PARTIAL).rename(control)
        sync_directory(data_dir)
        upgrade_control(control)
        check(data_dir)
    except OSError as error:
        raise data_dir_error(error, data_dir) from error
    finally:
        os.close(lock)
    return sum(int(file["rows"]) for file in files)


def iterate_rows(data_dir: Path) -> Iterator[Row]:
    """Yields the row of every order, shard by shard and by ascending id; the directory may be served meanwhile.

    Holds what was acknowledged before the call, each order once; of orders that are written meanwhile some. Rows that
    a move has left behind are passed over. Memory is bounded. Raises ``DataDirError`` or ``StoreError``.
    """
    shards = check(data_dir)
    with opened(control_path(data_dir), Kind.CONTROL) as control:
        topology = _topology(control, control_path(data_dir))
    if topology is None:
        return
    for shard in range(shards):
        with opened(shard_path(data_dir, shard), Kind.SHARD) as connection:
            for row in _rows(connection):
                slot = row.key.slot
                if topology.slot_shards[slot] == shard and topology.slot_gens[slot] == row.key.gen:
                    yield row


def _rows(connection: apsw.Connection) -> Iterator[Row]:
    # In chunks, so that no read transaction stays open while the consumer takes its time and the log grows.
    last = (b"", 0)
    while chunk := statements.rows_after(connection, *last, _CHUNK_ROWS):
        yield from chunk
        last = (chunk[-1].key.order_id, chunk[-1].key.gen)


def _topology(control: apsw.Connection, path: Path) -> Topology | None:
    row = control.execute(_TOPOLOGY).fetchone()
    if row is None:
        return None
    passing = passing_of(Fact(1, row[0]))
    if passing is not None and passing.step is Step.MOVED:
        raise DataDirError(f"{path}: the topology is kept in {passing.where} now, and this directory is but a part")
    try:
        return Topology.from_bytes(row[0] if passing is None else passing.topology)
    except TopologyDamaged as error:
        raise DataDirCorrupt(f"{path}: {error}") from error


def _epoch(data_dir: Path) -> int:
    with opened(control_path(data_dir), Kind.CONTROL) as control:
        topology = _topology(control, control_path(data_dir))
    return 0 if topology is None else topology.epoch


def _copy(path: Path, target: Path, kind: Kind) -> dict[str, Any]:
    copy = target / path.name
    try:
        destination = apsw.Connection(str(copy))
        try:
            with opened(path, kind) as connection, destination.backup("main", connection, "main") as copying:
                copying.step(-1)  # at one go: one snapshot, whoever writes meanwhile
            destination.pragma("journal_mode", "delete")  # one tidy file; opening it for use sets it back
        finally:
            destination.close()
        _sync_file(copy)
        return {
            "name": path.name,
            "sha256": _digest(copy),
            "bytes": copy.stat().st_size,
            "rows": _check_copy(copy, kind),
        }
    except apsw.Error as error:
        raise data_dir_error(error, copy) from error


def _check_copy(path: Path, kind: Kind) -> int:
    """Returns the number of orders in a file that nobody writes to, after checking its structure."""
    with opened(path, kind, immutable=True) as connection:
        verdict = connection.execute("PRAGMA integrity_check(1)").get
        if verdict != "ok":
            raise DataDirCorrupt(f"{path}: {verdict}")
        if kind is Kind.CONTROL:
            return 0
        return statements.count(connection)


def _verify(source: Path) -> list[dict[str, Any]]:
    path = source / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT or not 1 <= manifest["schema"] <= _SCHEMA:
            raise DataDirError(
                f"{path}: format {manifest['format']} with schema {manifest['schema']}, but this Crest knows "
                f"format {_FORMAT} with schema {_SCHEMA}; run the version that made the backup"
            )
        files: list[dict[str, Any]] = manifest["files"]
        names = [file["name"] for file in files]
        if names != [control_path(source).name, *(shard_path(source, shard).name for shard in range(len(names) - 1))]:
            raise DataDirCorrupt(f"{path}: the list of files is not that of a backup")
        for file in files:
            _verify_file(source / file["name"], file)
    except FileNotFoundError as error:
        raise DataDirCorrupt(f"{error.filename}: missing; this is not a complete backup") from error
    except OSError as error:
        raise data_dir_error(error, source) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataDirCorrupt(f"{path}: not a manifest of a backup ({error!r})") from error
    return files


def _verify_file(path: Path, file: dict[str, Any]) -> None:
    if path.stat().st_size != file["bytes"] or _digest(path) != file["sha256"]:
        raise DataDirCorrupt(f"{path}: differs from what was backed up")
    kind = Kind.CONTROL if path == control_path(path.parent) else Kind.SHARD
    rows = _check_copy(path, kind)
    if rows != file["rows"]:
        raise DataDirCorrupt(f"{path}: {rows} rows, but {file['rows']} were backed up")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
