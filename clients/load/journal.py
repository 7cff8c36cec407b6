"""The journal beside the file: which orders were asked for under which request ids, on disk before they are sent.

Text, one JSON object a line, appended to only:

    {"crest_load": 1, "sha256": ..., "file": ..., "endpoint": ...}         the file it belongs to
    {"batch": [first, count], "time_ms": ..., "seed": ...}                 ids for them; synced before sending
    {"again": [position, ...], "time_ms": ..., "seed": ...}                new ids, the old ones having expired; synced
    {"done": [first, count], "rejects": {position: [reason a row, ...]}}   every order of the batch has its fate
    {"complete": {...}}                                                    the whole file was loaded; its totals

A *position* counts the orders of the file that can be sent, from 0. The id of a position follows from time, seed and
position (``request_ids.uuid7_of_seed``), so a batch costs one line whatever its size. A "done" that was lost is no
harm: the batch is sent again under the same ids and found to be there.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from clients.request_ids import uuid7_of_seed

VERSION: Final = 1


class JournalError(Exception):
    """The journal is of another file, in use, or damaged."""


@dataclass(frozen=True, slots=True)
class Mint:
    """Where request ids come from: a time and 16 random bytes."""

    time_ms: int
    seed: bytes

    def request_id(self, position: int) -> str:
        """Returns the id of a position."""
        return uuid7_of_seed(self.time_ms, self.seed, position)


@dataclass(frozen=True, slots=True)
class Batch:
    """Orders that are sent together: the positions ``first`` to ``first + count - 1``."""

    first: int
    count: int
    mint: Mint


def journal_path(source: Path) -> Path:
    """Returns where the journal of a file is kept: beside it."""
    return source.with_name(f"{source.name}.journal")


class Journal:
    """The open journal of one file, locked for this process."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self.header: Mapping[str, Any] = {}
        self.batches: list[Batch] = []
        """In the order of their positions, without a gap."""
        self.done: set[int] = set()
        """``first`` of the batches whose fate is known."""
        self.rejects: dict[int, Sequence[str]] = {}
        """The service's reasons, one a row, by position."""
        self.complete: Mapping[str, Any] | None = None
        self._again: dict[int, Mint] = {}

    def __repr__(self) -> str:
        return f"<Journal {self.path}: {len(self.batches)} batches, {len(self.done)} done>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._fd)

    @classmethod
    def open(cls, source: Path, digest: str, *, endpoint: str = "", anew: bool = False) -> Self:
        """Opens the journal of a file, or begins one.

        With ``anew`` a journal that is there is forgotten, and its orders would be created a second time. Raises
        JournalError when another process has it open, when it is of another content of the file, or damaged.
        """
        path = journal_path(source)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            _lock(fd, path)
            if anew:
                os.ftruncate(fd, 0)
            journal = cls(path, fd)
            journal._read()
            if not journal.header:
                header = {"crest_load": VERSION, "sha256": digest, "file": source.name, "endpoint": endpoint}
                journal._append(header, sync=True)
                journal.header = header
                _sync_directory(path.parent)
            journal._require(digest, source)
        except BaseException:
            os.close(fd)
            raise
        return journal

    @property
    def next_position(self) -> int:
        """The first position that no batch has yet."""
        return self.batches[-1].first + self.batches[-1].count if self.batches else 0

    def mint_of(self, batch: Batch, position: int) -> Mint:
        """Returns what the present id of a position comes from."""
        return self._again.get(position, batch.mint)

    def begin(self, count: int, time_ms: int) -> Batch:
        """Mints ids for the next ``count`` positions; on disk when this returns. Blocks for an fsync."""
        batch = Batch(self.next_position, count, Mint(time_ms, secrets.token_bytes(16)))
        record = {"batch": [batch.first, count], "time_ms": time_ms, "seed": batch.mint.seed.hex()}
        self._append(record, sync=True)
        self.batches.append(batch)
        return batch

    def mint_again(self, positions: Sequence[int], time_ms: int) -> None:
        """Mints new ids for positions whose former ids can never create; on disk when this returns."""
        mint = Mint(time_ms, secrets.token_bytes(16))
        self._append({"again": list(positions), "time_ms": time_ms, "seed": mint.seed.hex()}, sync=True)
        self._again.update(dict.fromkeys(positions, mint))

    def finish(self, batch: Batch, rejects: Mapping[int, Sequence[str]]) -> None:
        """Notes that every order of a batch has its fate."""
        record: dict[str, Any] = {"done": [batch.first, batch.count]}
        if rejects:
            record["rejects"] = {str(position): list(reasons) for position, reasons in rejects.items()}
        self._append(record, sync=False)
        self.done.add(batch.first)
        self.rejects.update(rejects)

    def finish_all(self, totals: Mapping[str, Any]) -> None:
        """Notes that the whole file was loaded."""
        self._append({"complete": dict(totals)}, sync=True)
        self.complete = dict(totals)

    # ------------------------------------------------------------------------------------------------------- below

    def _append(self, record: Mapping[str, Any], *, sync: bool) -> None:
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        before = os.fstat(self._fd).st_size
        written = os.write(self._fd, line)
        if written != len(line):
            os.ftruncate(self._fd, before)  # else a later record would stand on the line of this one
            raise OSError(f"{self.path}: {written} of {len(line)} bytes were written; is the disk full?")
        if sync:
            os.fsync(self._fd)

    def _require(self, digest: str, source: Path) -> None:
        if self.header["sha256"] != digest:
            raise JournalError(
                f"{source} is not the file that {self.path} was begun for. Put the former content back to finish that "
                f"load, or start anew with --anew: orders that were loaded before would be created again"
            )

    def _read(self) -> None:
        with open(self._fd, "rb", closefd=False) as file:
            file.seek(0)
            content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):  # killed within a write: what it announces was never sent
            os.ftruncate(self._fd, whole)
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise JournalError(
                    f"{self.path}:{number} is damaged ({error}). Without it nobody can tell which orders were loaded: "
                    f"restore it, or compare with the service before starting anew with --anew"
                ) from error

    def _take(self, record: Mapping[str, Any]) -> None:
        if not self.header:
            if record["crest_load"] != VERSION:
                raise ValueError(f"it is of version {record['crest_load']}, this program writes {VERSION}")
            self.header = {**record, "sha256": str(record["sha256"])}
        elif "batch" in record:
            first, count = map(int, record["batch"])
            if first != self.next_position or count < 1:
                raise ValueError(f"batch {first}+{count} does not follow {self.next_position}")
            self.batches.append(Batch(first, count, _mint(record)))
        elif "again" in record:
            self._again.update(dict.fromkeys(map(int, record["again"]), _mint(record)))
        elif "done" in record:
            self.done.add(int(record["done"][0]))
            self.rejects.update({int(position): reasons for position, reasons in record.get("rejects", {}).items()})
        elif "complete" in record:
            self.complete = record["complete"]
        else:
            raise ValueError("a record of no known kind")


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise JournalError(f"another process is loading this file now: it has {path} open") from None


def _mint(record: Mapping[str, Any]) -> Mint:
    return Mint(int(record["time_ms"]), bytes.fromhex(record["seed"]))


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
