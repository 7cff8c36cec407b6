"""BatchCreateOrders against what the database does when nothing is before it."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import Final
from urllib.request import urlopen

from bench import figures
from bench.bed import Bed
from bench.driver import Driver
from bench.load import batch_of
from bench.parts import Context, Outcome
from bench.rounds import ByDriver, ByGhz, Plan, take_turns, warm
from bench.rows import unary

ORDERS_PER_CALL: Final = 100
CALLERS: Final = 32
"""Then as many orders are under way as keep every lane of two workers busy, and no queue is full."""

TARGET: Final = 0.6
RAW_IN_FLIGHT: Final = 2
"""Batches under way at each shard: one that the node works on and one on its way."""

RAW_ROWS: Final = 320
"""Rows of each: as many as a batch of ours may hold, which is faster than fewer."""

_COMMITTED: Final = re.compile(r"^crest_batch_rows_sum\{[^}]*\} ([\d.e+]+)$", re.MULTILINE)


class Batch:
    """See ``bench.parts.Part``."""

    name = "batch"
    title = "A hundred orders a call"
    needs_bed = True
    budget_s = 150.0

    def run(self, context: Context) -> Outcome:
        """Rounds in turn; then the rows that the server says it committed are compared with those acknowledged."""
        plan = Plan.of(context)
        assert context.bed is not None
        with contextlib.ExitStack() as stack:
            crest = unary.crest_on(context, stack)
            by_ghz = ByGhz(context, crest, kind=batch_of(ORDERS_PER_CALL), callers=CALLERS)
            by_raw = ByDriver(context, stack.enter_context(raw(context, context.bed)), None)
            for one in (by_ghz, by_raw):
                warm(context, one, plan)
            rounds = take_turns(context, (by_ghz, by_raw), plan)
            committed = committed_rows(f"{context.host}:{context.port + 10}")
        findings = []
        if committed < by_ghz.acknowledged:
            findings.append(f"{by_ghz.acknowledged:,} orders were in calls answered OK, {committed:,} were committed")
        row = figures.row(
            f"BatchCreateOrders, {ORDERS_PER_CALL} orders a call, by ghz, {CALLERS} callers",
            ("crest", rounds[by_ghz.name]),
            ("raw conditional batches", rounds[by_raw.name]),
            target=TARGET,
            note="The driver alone, no RPC: what the database does at most.",
        )
        return Outcome(
            [row],
            [unary.rates("Orders a second, a hundred a call", rounds), unary.costs("What an order costs", rounds)],
            {"rounds": {name: [one._asdict() for one in some] for name, some in rounds.items()}},
            findings,
        )


def raw(context: Context, bed: Bed) -> Driver:
    """Returns the driver alone, with a keyspace of its own on the bed's shards."""
    file = bed.named("raw", context.scratch)
    command = [sys.executable, "-m", "bench.peers.raw", f"--topology-file={file}", f"--in-flight={RAW_IN_FLIGHT}"]
    return Driver("raw", [*command, f"--batch-rows={RAW_ROWS}"], context.scratch / "raw.log")


def committed_rows(address: str) -> int:
    """Returns the rows that a server says all its workers have committed."""
    with urlopen(f"http://{address}/metrics", timeout=10) as answer:  # of our own server, on loopback
        return int(sum(float(found) for found in _COMMITTED.findall(answer.read().decode())))


PART: Final = Batch()
