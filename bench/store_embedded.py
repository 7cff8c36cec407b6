"""Measures the embedded store by itself: group commits beside a busy event loop, and two writers on one file.

Run ``python -m bench.store_embedded`` on a machine with nothing else to do: a minute, the tables of the ADR.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import uvloop

from shards.contract import BUCKET_S, Row, Verdict
from shards.keys import bucket_of, key_of, mint_uuid7, order_id_of
from shards.stores.embedded import prepare, shard_path
from shards.stores.embedded.files import Kind, open_file
from shards.stores.embedded.statements import BEGIN, COMMIT, write
from shards.stores.embedded.store import EmbeddedStore
from shards.stores.embedded.writer import Writer

BODY_BYTES = 300
CUSTOMERS = 1_000_000
SWITCH_INTERVALS_MS = (5.0, 1.0, 0.5)
BATCHES_ROWS = (1, 64, 256)
REPEATS = 3
SPINNERS = 20  # tasks that keep the loop busy: one turn of the loop takes about a millisecond
SLICE_STEPS = 3_000
ONE_ROW = """
    INSERT INTO orders (order_id, gen, slot, tag, customer, marks, body) SELECT ?, ?, ?, ?, ?, ?, ?
    WHERE NOT EXISTS (SELECT 1 FROM sealed WHERE bucket = ?) ON CONFLICT DO NOTHING
"""
CHECKPOINTS_PAGES = (1_000, 8_192)
ROWS_READY = 20_000  # made ahead, so that making them is not measured


def make_rows(count: int) -> list[Row]:
    """Returns new rows of version 1, of random customers, in the order of their time."""
    body = os.urandom(BODY_BYTES)
    rows = []
    for _ in range(count):
        customer = f"customer-{random.randrange(CUSTOMERS)}"
        request_id = mint_uuid7()
        rows.append(Row(key_of(order_id_of(customer, request_id), 0), customer, request_id + bytes(16), body))
    return rows


class Result(NamedTuple):
    """Commits of one measurement: rows a second, and milliseconds that a commit took."""

    rows_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float


def summary(times_s: Iterable[float], seconds: float, rows: int) -> Result:
    """Returns rows a second and the distribution of the commits' times."""
    ms = sorted(time_s * 1e3 for time_s in times_s)
    return Result(len(ms) * rows / seconds, ms[len(ms) // 2], ms[len(ms) * 99 // 100], ms[-1])


def report(subject: str, rows: int, results: Sequence[Result]) -> None:
    """Prints the median of each figure over the results."""
    rate, p50, p99, longest = (statistics.median(figures) for figures in zip(*results, strict=True))
    print(
        f"{subject:26} {rows:4} rows a commit {rate:>8,.0f} rows/s   "
        f"p50 {p50:6.2f}   p99 {p99:6.2f}   max {longest:7.2f} ms",
        flush=True,
    )


async def spin() -> None:
    """Keeps the event loop busy with slices of Python, as a servicer does."""
    while True:
        sum(range(SLICE_STEPS))
        await asyncio.sleep(0)


async def commits(path: Path, batch_rows: int, seconds: float, *, busy: bool) -> Result:
    """Commits one batch after the other and returns the summary."""
    store = await EmbeddedStore.open(path)
    rows = make_rows(ROWS_READY)
    batches = [rows[start : start + batch_rows] for start in range(0, ROWS_READY - batch_rows, batch_rows)]
    spinning = [asyncio.create_task(spin()) for _ in range(SPINNERS if busy else 0)]
    times = []
    started = time.perf_counter()
    for batch in batches:
        began = time.perf_counter()
        outcomes = await store.commit(batch)
        times.append(time.perf_counter() - began)
        assert outcomes[0].verdict is Verdict.APPLIED
        if time.perf_counter() - started > seconds:
            break
    result = summary(times, time.perf_counter() - started, batch_rows)
    for task in spinning:
        task.cancel()
    await store.close()
    return result


def shapes(path: Path, batch_rows: int, seconds: float, *, one_statement: bool) -> Result:
    """Commits on this thread, as one statement or a statement a row, while another thread never yields by itself."""
    connection = open_file(path, Kind.SHARD)
    rows = make_rows(ROWS_READY)
    stop = threading.Event()

    def burn() -> None:
        while not stop.is_set():
            sum(range(100))

    burning = threading.Thread(target=burn)
    burning.start()
    times = []
    started = time.perf_counter()
    for start in range(0, ROWS_READY - batch_rows, batch_rows):
        batch = rows[start : start + batch_rows]
        began = time.perf_counter()
        if one_statement:
            assert write(connection, batch)
        else:
            connection.execute(BEGIN)
            for (slot, gen, tag, order_id), customer, marks, body in batch:
                bucket = bucket_of(order_id, BUCKET_S)
                connection.execute(ONE_ROW, (order_id, gen, slot, tag, customer, marks, body, bucket))
            connection.execute(COMMIT)
        times.append(time.perf_counter() - began)
        if time.perf_counter() - started > seconds:
            break
    result = summary(times, time.perf_counter() - started, batch_rows)
    stop.set()
    burning.join()
    connection.close()
    return result


def contend(path: Path, batch_rows: int, seconds: float, locks: str, result: Connection) -> None:
    """Commits through the writer without a pause, and sends the times; one of two processes."""
    writer = Writer(path)
    turns: AbstractContextManager[None] = writer._turns  # noqa: SLF001  # looks inside
    connection = writer._connection  # noqa: SLF001  # looks inside
    if locks == "polling":
        turns = contextlib.nullcontext()
        connection.set_busy_timeout(5_000)
    batches = [make_rows(batch_rows) for _ in range(ROWS_READY // batch_rows)]
    result.send("ready")
    result.recv()
    times = []
    ends = time.perf_counter() + seconds
    for batch in batches:
        began = time.perf_counter()
        with turns:
            assert write(connection, batch)
        times.append(time.perf_counter() - began)
        if time.perf_counter() > ends:
            break
    result.send(times)
    writer.close()


def two_writers(path: Path, batch_rows: int, seconds: float, locks: str) -> Sequence[Result]:
    """Runs two processes against one file and returns the summary of each."""
    spawn = multiprocessing.get_context("spawn")
    ends = []
    processes = []
    for _ in range(2):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=contend, args=(path, batch_rows, seconds, locks, theirs))
        process.start()
        theirs.close()  # so that its death is heard
        ends.append(ours)
        processes.append(process)
    for end in ends:
        end.recv()
    for end in ends:
        end.send("go")
    results = []
    for end, process in zip(ends, processes, strict=True):
        times = end.recv()
        results.append(summary(times, max(seconds, sum(times)), batch_rows))
        process.join()
    return results


def fresh_file() -> Path:
    """Returns the file of the one shard of a new data directory, which is left for the system to clear away."""
    directory = Path(tempfile.mkdtemp(prefix="crest-bench-"))
    os.close(prepare(directory, 1))
    return shard_path(directory, 0)


def growth(pages: int) -> Result:
    """Fills a file and returns the last third: how the random index weighs, by the pages between two checkpoints."""
    connection = open_file(fresh_file(), Kind.SHARD)
    connection.wal_autocheckpoint(pages)
    times: list[float] = []
    for _ in range(3):
        times.clear()
        for _ in range(1_500):
            batch = make_rows(64)
            began = time.perf_counter()
            assert write(connection, batch)
            times.append(time.perf_counter() - began)
    connection.close()
    return summary(times, sum(times), 64)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of each measurement (default 0.5)")
    seconds = parser.parse_args().seconds
    path = fresh_file()
    for pages in CHECKPOINTS_PAGES:
        report(f"log of {pages} pages", 64, [growth(pages)])
    for rows in BATCHES_ROWS:
        report("idle loop", rows, [uvloop.run(commits(path, rows, seconds, busy=False)) for _ in range(REPEATS)])
    for interval_ms in SWITCH_INTERVALS_MS:
        sys.setswitchinterval(interval_ms / 1e3)
        for rows in BATCHES_ROWS:
            results = [uvloop.run(commits(path, rows, seconds, busy=True)) for _ in range(REPEATS)]
            report(f"busy loop, switch {interval_ms} ms", rows, results)
        for one_statement in (False, True):
            results = [shapes(path, 64, seconds, one_statement=one_statement) for _ in range(REPEATS)]
            report(f"  {'one statement' if one_statement else 'a statement a row'}", 64, results)
    for locks in ("polling", "turns"):
        for rows in (1, 64):
            first, second = two_writers(fresh_file(), rows, 2 * seconds, locks)
            report(f"two writers, {locks}", rows, [first])
            report("", rows, [second])


if __name__ == "__main__":
    main()
