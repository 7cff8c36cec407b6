"""Random histories, run on every store beside a model that is nothing but the law's first and last sentence."""

import asyncio
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.contract import APPLIED, BUCKET_S, SEALED, Consistency, Outcome, Row, Verdict
from shards.keys import Key, bucket_of, mint_uuid7
from tests.contract.subjects import SUBJECTS, Truth
from tests.contract.test_law import settle
from tests.support.rows import new_row, next_version

AGES: Final = (0, 0, 0, 5, 5, 20)  # in buckets: some orders share one, others do not


class Model:
    """The law in a dictionary."""

    def __init__(self) -> None:
        self.rows: dict[Key, Row] = {}
        self.sealed: set[int] = set()

    def write(self, row: Row) -> Outcome:
        """Law 1, for one row."""
        present = self.rows.get(row.key)
        if (present.version if present else 0) != row.version - 1:
            return Outcome(Verdict.CLASH, present)
        if row.version == 1 and bucket_of(row.key.order_id, BUCKET_S) in self.sealed:
            return SEALED
        self.rows[row.key] = row
        return APPLIED


# A step is a commit of (order, gen, version) through a face, or the seal of an order's bucket.
writes = st.tuples(st.integers(0, len(AGES) - 1), st.sampled_from([0, 1]), st.integers(1, 4))
commits = st.tuples(st.integers(0, 1), st.lists(writes, min_size=1, max_size=6, unique_by=lambda write: write[0]))
steps = st.lists(st.one_of(commits, commits, commits, st.integers(0, len(AGES) - 1)), min_size=1, max_size=25)
Steps = list[tuple[int, list[tuple[int, int, int]]] | int]


async def run(truth: Truth, history: Steps) -> None:
    """Makes every step on the truth and on the model, and compares what they say and what they hold."""
    faces = [await truth.face(), await truth.face()]
    model = Model()
    now_ms = int.from_bytes(mint_uuid7()[:6], "big")
    firsts = [new_row("customer", request_id=mint_uuid7(now_ms - age * BUCKET_S * 1000)) for age in AGES]
    for number, step in enumerate(history):
        if isinstance(step, int):
            await faces[number % 2].seal(firsts[step].key)
            model.sealed.add(bucket_of(firsts[step].key.order_id, BUCKET_S))
            continue
        face, wanted = step
        rows = []
        for order, gen, version in wanted:
            row = firsts[order]._replace(body=b"step %d" % number)
            for _ in range(version - 1):
                row = next_version(row, body=b"step %d" % number)
            rows.append(row._replace(key=row.key._replace(gen=gen)))
        assert await settle(faces[face], rows) == [model.write(row) for row in rows]
    keys = [first.key._replace(gen=gen) for first in firsts for gen in (0, 1)]
    for reading in faces:
        assert await reading.read(keys, Consistency.STRONG) == [model.rows.get(key) for key in keys]
        for gen in (0, 1):
            held = sorted((row for key, row in model.rows.items() if key.gen == gen), reverse=True)
            slot, _, tag, _ = firsts[0].key
            assert await reading.list_customer("customer", slot, gen, tag, None, 100) == held


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in sorted(SUBJECTS.items())])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=steps)
def test_every_history_goes_as_the_law_says(make: Callable[[], Truth], history: Steps) -> None:
    """Whatever is written and sealed in whatever order, answers and contents are those of the law."""

    async def on_new_truth() -> None:
        truth = make()
        try:
            await run(truth, history)
        finally:
            await truth.close()

    asyncio.run(on_new_truth())
