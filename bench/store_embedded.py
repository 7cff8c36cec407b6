"""Measures the embedded store by itself: group commits beside a busy event loop, and two writers on one file.

Run ``python -m bench.store_embedded``; it takes half a minute and prints the tables of the store's ADR.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import uvloop

from shards.contract import Row, Verdict
from shards.keys import key_of, mint_uuid7, order_id_of
from shards.stores.embedded import prepare, shard_path
from shards.stores.embedded.statements import write
from shards.stores.embedded.store import EmbeddedStore
from shards.stores.embedded.writer import Writer

BODY_BYTES = 300
CUSTOMERS = 1_000_000
SWITCH_INTERVALS_MS = (5.0, 1.0, 0.5, 0.2)
BATCHES_ROWS = (1, 16, 64, 256)
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


def summary(times_s: Iterable[float], seconds: float, rows: int) -> str:
    """Returns rows a second and the distribution of the commits' times."""
    ms = sorted(time_s * 1e3 for time_s in times_s)
    p50, p99 = ms[len(ms) // 2], ms[len(ms) * 99 // 100]
    return f"{len(ms) * rows / seconds:>8,.0f} rows/s   p50 {p50:6.2f}   p99 {p99:6.2f}   max {ms[-1]:7.2f} ms"


async def spin() -> None:
    """Keeps the event loop busy with slices of 50 microseconds or so of Python, as servicers do."""
    while True:
        sum(range(2_000))
        await asyncio.sleep(0)


async def commits(path: Path, batch_rows: int, seconds: float, *, busy: bool) -> str:
    """Commits one batch after the other and returns the summary."""
    store = await EmbeddedStore.open(path)
    rows = make_rows(ROWS_READY)
    batches = [rows[start : start + batch_rows] for start in range(0, ROWS_READY - batch_rows, batch_rows)]
    spinning = asyncio.create_task(spin()) if busy else None
    times = []
    started = time.perf_counter()
    for batch in batches:
        began = time.perf_counter()
        outcomes = await store.commit(batch)
        times.append(time.perf_counter() - began)
        assert outcomes[0].verdict is Verdict.APPLIED
        if time.perf_counter() - started > seconds:
            break
    text = summary(times, time.perf_counter() - started, batch_rows)
    if spinning is not None:
        spinning.cancel()
    await store.close()
    return text


def contend(path: Path, batch_rows: int, seconds: float, locks: str, result: Connection) -> None:
    """Commits through the writer without a pause, and sends the times; one of two processes."""
    writer = Writer(path)
    turn = contextlib.nullcontext() if locks == "polling" else writer._turn  # noqa: SLF001  # looks inside
    connection = writer._connection  # noqa: SLF001  # looks inside
    batches = [make_rows(batch_rows) for _ in range(ROWS_READY // batch_rows)]
    result.send("ready")
    result.recv()
    times = []
    ends = time.perf_counter() + seconds
    for batch in batches:
        began = time.perf_counter()
        with turn:
            assert write(connection, batch)
        times.append(time.perf_counter() - began)
        if time.perf_counter() > ends:
            break
    result.send(times)
    writer.close()


def two_writers(path: Path, batch_rows: int, seconds: float, locks: str) -> Sequence[str]:
    """Runs two processes against one file and returns the summary of each."""
    spawn = multiprocessing.get_context("spawn")
    ends = []
    processes = []
    for _ in range(2):
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=contend, args=(path, batch_rows, seconds, locks, theirs))
        process.start()
        ends.append(ours)
        processes.append(process)
    for end in ends:
        end.recv()
    for end in ends:
        end.send("go")
    texts = []
    for end, process in zip(ends, processes, strict=True):
        times = end.recv()
        texts.append(summary(times, max(seconds, sum(times)), batch_rows))
        process.join()
    return texts


def fresh_file() -> Path:
    """Returns the file of the one shard of a new data directory, which is left for the system to clear away."""
    directory = Path(tempfile.mkdtemp(prefix="crest-bench-"))
    os.close(prepare(directory, 1))
    return shard_path(directory, 0)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each measurement (default 1)")
    seconds = parser.parse_args().seconds
    path = fresh_file()
    for interval_ms in SWITCH_INTERVALS_MS:
        sys.setswitchinterval(interval_ms / 1e3)
        for busy in (False, True):
            if not busy and interval_ms != SWITCH_INTERVALS_MS[0]:
                continue
            for rows in BATCHES_ROWS:
                text = uvloop.run(commits(path, rows, seconds, busy=busy))
                loop = f"busy loop, switch {interval_ms} ms" if busy else "idle loop"
                print(f"{loop:28} {rows:4} rows a commit {text}", flush=True)
    for locks in ("polling", "turns"):
        for rows in (1, 64):
            for text in two_writers(fresh_file(), rows, seconds, locks):
                print(f"{'two writers, ' + locks:28} {rows:4} rows a commit {text}", flush=True)


if __name__ == "__main__":
    main()
