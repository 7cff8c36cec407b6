"""The Cassandra store by itself, lanes included and no RPC, against the bare driver, in one process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import uvloop

from bench.parts import Context, Outcome, Row, Side
from bench.store_cassandra import Rate, Subjects, turn
from bench.summary import Range, spread
from shards.settings import CassandraSettings, load
from shards.stores.cassandra import CassandraStore

TARGET: Final = 0.7
_TURN_S: Final = 2.0
_TURNS: Final = 5
_PAIRS: Final = {"writes": ("store_writes", "raw_batches"), "reads": ("store_reads", "raw_reads")}
_THEIRS: Final = {"writes": "raw conditional batches", "reads": "raw reads"}


class StorePath:
    """See ``bench.parts.Part``."""

    name = "store"
    title = "The store without RPC"
    needs_bed = True
    budget_s = 120.0

    def run(self, context: Context) -> Outcome:
        """One shard, in a keyspace of its own; the four subjects in turn, one round to warm up."""
        assert context.bed is not None
        file = load(context.bed.named("store_path", context.scratch), os.environ)
        turns, seconds = (1, 1.0) if context.is_quick else (_TURNS, _TURN_S)
        rates = uvloop.run(_measure(file.shards[min(file.shards)], turns, seconds))
        rows = [_row(kind, rates[ours], rates[theirs]) for kind, (ours, theirs) in _PAIRS.items()]
        return Outcome(rows, data={"turns": {name: [one._asdict() for one in some] for name, some in rates.items()}})


async def _measure(settings: CassandraSettings, turns: int, seconds: float) -> dict[str, list[Rate]]:
    store = await CassandraStore.open(settings, is_indexing=False)
    try:
        subjects = Subjects(store)
        order = (subjects.raw_batches, subjects.store_writes, subjects.raw_reads, subjects.store_reads)
        found: dict[str, list[Rate]] = {subject.__name__: [] for subject in order}
        for number in range(turns + 1):
            for subject in order:
                done = await turn(subject, seconds)
                if number:
                    found[subject.__name__].append(done)
    finally:
        await store.close()
    return found


def _row(kind: str, ours: Sequence[Rate], theirs: Sequence[Rate]) -> Row:
    ratios: Range = spread(one.per_s / other.per_s for one, other in zip(ours, theirs, strict=True))
    return Row(
        f"{kind} of one shard, in one process, without RPC",
        _side("crest's store and lanes", ours),
        _side(_THEIRS[kind], theirs),
        ratios,
        target=TARGET,
        unit="rows/s",
        note="CPU is that of this process alone.",
    )


def _side(name: str, rates: Sequence[Rate]) -> Side:
    cpu_s = sorted(one.cpu_us for one in rates)[len(rates) // 2] * 1e-3
    return Side(name, spread(one.per_s for one in rates), cpu_s_per_1000={"server": cpu_s})


PART: Final = StorePath()
