"""Reads of a shard's file: by key, gathered, and by customer; on one thread and one connection a process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import apsw

from shards.contract import Row
from shards.keys import Key
from shards.stores.embedded import statements
from shards.stores.embedded.errors import VALUE_ERRORS, invalid, store_error
from shards.stores.embedded.files import Kind, open_file
from shards.stores.embedded.threads import Job


class Page(NamedTuple):
    """A customer's rows by descending id, those below ``before``."""

    customer: str
    slot: int
    gen: int
    tag: int
    before: bytes | None
    rows_max: int


Question = Sequence[Key] | Page
ReadJob = Job[Question, Sequence[Row | None]]


class Reader:
    """The reading side of one file. All methods but the constructor run on the reader's thread.

    Every statement begins a snapshot of its own after it was asked for, and commits of all processes are seen as soon
    as they are durable: so each read is linearizable, STRONG or not.
    """

    def __init__(self, path: Path) -> None:
        self._path: Final = path
        self._connection: Final = open_file(path, Kind.SHARD)
        self._connection.execute("PRAGMA query_only = ON")

    def work(self, jobs: Sequence[ReadJob]) -> None:
        """Answers the reads by key among the jobs with one statement, then the pages one by one."""
        by_key: list[tuple[ReadJob, Sequence[Key]]] = []
        pages: list[tuple[ReadJob, Page]] = []
        for job in jobs:
            if isinstance(job.question, Page):
                pages.append((job, job.question))
            else:
                by_key.append((job, job.question))
        try:
            self._read(by_key)
        except apsw.Error as error:
            self._fail([job for job, _ in by_key], error)
        for job, page in pages:
            try:
                job.answer = statements.list_customer(self._connection, *page)
            except apsw.Error as error:
                self._fail([job], error)
            except VALUE_ERRORS as error:
                job.error = invalid(error, self._path)
                job.error.__cause__ = error

    def close(self) -> None:
        """Lets go of the file."""
        self._connection.close()

    def _read(self, jobs: Sequence[tuple[ReadJob, Sequence[Key]]]) -> None:
        order_ids = {key.order_id for _, keys in jobs for key in keys}
        found = statements.read(self._connection, order_ids) if order_ids else {}
        for job, keys in jobs:
            job.answer = [found.get((key.order_id, key.gen)) for key in keys]

    def _fail(self, jobs: Sequence[ReadJob], error: apsw.Error) -> None:
        for job in jobs:
            job.error = store_error(error, self._path)
            job.error.__cause__ = error
