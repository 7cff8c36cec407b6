"""Writes to a shard's file: group commits and seals, on one thread and one connection a process."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import apsw

from shards.contract import (
    APPLIED,
    BUCKET_S,
    MARK_BYTES,
    SEALED,
    Invalid,
    Outcome,
    Row,
    Unavailable,
    Verdict,
)
from shards.keys import bucket_of
from shards.stores.embedded import statements
from shards.stores.embedded.errors import FORESEEN, data_dir_error, job_error, store_error
from shards.stores.embedded.files import Kind, open_file
from shards.stores.embedded.threads import Job
from shards.stores.embedded.turns import Turns


class Settle(enum.Enum):
    """A question without content."""

    IT = "settle"


Question = Sequence[Row] | int | Settle
"""Rows to commit, or the number of a bucket to seal, or the wish to know that nothing is in doubt."""


class Writer:
    """The writing side of one file. Its methods run on the writer's thread."""

    def __init__(self, path: Path) -> None:
        self._path: Final = path
        self._connection: Final = open_file(path, Kind.SHARD)
        try:
            self._turns: Final = Turns(path)
        except OSError as error:
            self._connection.close()
            raise data_dir_error(error, path) from error
        self._connection.set_busy_handler(self._turns.poll)
        self.in_doubt = False
        """A commit failed half-way. SQLite took it back, but what it left in the log could come to life if every
        process died now; the next commit writes over it. Until then nobody can say what STRONG reads must (law 5)."""

    def work(self, jobs: Sequence[Job[Question, Sequence[Outcome]]]) -> None:
        """Answers each job in turn: the outcome of each row, or nothing for a seal."""
        for job in jobs:
            try:
                with self._turns:
                    job.answer = self._answer(job.question)
            except FORESEEN as error:
                job.error = job_error(error, self._path)

    def close(self) -> None:
        """Lets go of the file and the locks."""
        self._connection.close()
        self._turns.close()

    def _answer(self, question: Question) -> Sequence[Outcome]:
        if self.in_doubt:
            self._settle()
        try:
            if isinstance(question, Settle):
                return ()
            if isinstance(question, int):
                self._connection.execute(statements.SEAL, (question,))
                return ()
            if statements.write(self._connection, question):
                return (APPLIED,) * len(question)
            return self._commit_row_by_row(question)
        except apsw.Error as error:
            if not isinstance(store_error(error, self._path), Unavailable | Invalid):
                self.in_doubt = True
                with contextlib.suppress(apsw.Error):
                    self._settle()
            raise

    def _settle(self) -> None:
        if self._connection.in_transaction:  # not even the rollback succeeded
            self._connection.execute(statements.ROLLBACK)
        self._connection.execute(statements.SETTLE)
        self.in_doubt = False

    def _commit_row_by_row(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """Finds out which rows are refused and commits the others, in one transaction: what it saw stays true."""
        connection = self._connection
        connection.execute(statements.BEGIN)
        try:
            outcomes = self._judge(rows)
            self._write([row for row, outcome in zip(rows, outcomes, strict=True) if outcome is APPLIED])
            connection.execute(statements.COMMIT)
        except BaseException:
            if connection.in_transaction:  # some errors roll back by themselves
                connection.execute(statements.ROLLBACK)
            raise
        return outcomes

    def _write(self, rows: Sequence[Row]) -> None:
        if rows and not statements.write(self._connection, rows):
            raise Invalid(f"{self._path.name}: a row lacks a value")

    def _judge(self, rows: Sequence[Row]) -> list[Outcome]:
        present = statements.read(self._connection, (row.key.order_id for row in rows))
        buckets = {bucket_of(row.key.order_id, BUCKET_S) for row in rows}
        sealed = statements.sealed_among(self._connection, buckets)
        outcomes = []
        for row in rows:
            there = present.get((row.key.order_id, row.key.gen))
            if there is not None:
                replaces = len(row.marks) == len(there.marks) + MARK_BYTES
                outcomes.append(APPLIED if replaces else Outcome(Verdict.CLASH, there))
            elif row.version > 1:
                outcomes.append(Outcome(Verdict.CLASH))
            else:
                outcomes.append(SEALED if bucket_of(row.key.order_id, BUCKET_S) in sealed else APPLIED)
        return outcomes
