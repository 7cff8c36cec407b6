"""Bugs to plant into the service: a simulation that does not show each of its own is blind to it.

Here is what they are, and those that more than one simulation must show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import pytest

from shards import judging, lanes
from shards.caches.local import LocalCache
from shards.contract import APPLIED, Outcome, Row, Unavailable, Verdict
from shards.keys import Key
from shards.lanes import Lanes, _Lane, _Waiter
from shards.wrappers.cached import CachedStore

Plant = Callable[[pytest.MonkeyPatch], None]
"""Puts its bug into the service, until the patch is undone."""


class Plants(dict[str, Plant]):
    """Bugs by the names of the functions that plant them."""

    def add(self, plant: Plant) -> Plant:
        """Lists a bug; a decorator."""
        self[plant.__name__] = plant
        return plant


ROWS: Final = Plants()
"""What goes wrong with rows on their way through lanes and caches."""


@ROWS.add
def unknown_is_taken_for_not_written(patch: pytest.MonkeyPatch) -> None:
    """A commit without a reply is answered as if nothing had been written."""

    async def settle(_: Lanes, __: _Lane, part: Sequence[_Waiter], ___: Exception) -> list[_Waiter]:
        lanes._fail(part, Unavailable("surely not"))
        return []

    patch.setattr(Lanes, "_settle", settle)


@ROWS.add
def unknown_is_taken_for_applied(patch: pytest.MonkeyPatch) -> None:
    """A commit without a reply is answered as if all had been written."""

    async def settle(_: Lanes, __: _Lane, part: Sequence[_Waiter], ___: Exception) -> list[_Waiter]:
        return lanes._answer(part, [APPLIED] * len(part))

    patch.setattr(Lanes, "_settle", settle)


@ROWS.add
def a_mark_is_taken_for_the_row(patch: pytest.MonkeyPatch) -> None:
    """A row that another try of the same request stored is taken for one's own."""
    judge = judging.judge

    def by_mark(row: Row, present: Row | None) -> Outcome | None:
        if present is not None and present.mark(row.version) == row.mark(row.version):
            return APPLIED
        return judge(row, present)

    patch.setattr(lanes, "judge", by_mark)


@ROWS.add
def refused_rows_are_remembered(patch: pytest.MonkeyPatch) -> None:
    """The cache is filled before it is known whether the store took the rows."""
    commit = CachedStore.commit

    async def hasty(self: CachedStore, rows: Sequence[Row]) -> Sequence[Outcome]:
        await self._cache.put(rows, time.monotonic())
        return await commit(self, rows)

    patch.setattr(CachedStore, "commit", hasty)


@ROWS.add
def the_cache_forgets_to_forget(patch: pytest.MonkeyPatch) -> None:
    """A remembered row is answered however old it is."""

    def get(self: LocalCache, key: Key, _: float) -> Row | None:
        entry = self._entries.get(key)
        return entry and entry[0]

    patch.setattr(LocalCache, "_get", get)


@ROWS.add
def a_lost_race_is_called_applied(patch: pytest.MonkeyPatch) -> None:
    """A create that finds another's order in its place is answered as its own."""
    answer = lanes._answer

    def greedy(part: Sequence[_Waiter], outcomes: Sequence[Outcome]) -> list[_Waiter]:
        return answer(part, [APPLIED if outcome.verdict is Verdict.CLASH else outcome for outcome in outcomes])

    patch.setattr(lanes, "_answer", greedy)


@ROWS.add
def absence_is_taken_from_an_older_read(patch: pytest.MonkeyPatch) -> None:
    """Who joins a read believes it also when it finds nothing."""
    join = CachedStore._join_or_read

    async def believe(
        self: CachedStore, keys: Sequence[Key], rows: list[Row | None], wanted: Sequence[int]
    ) -> Sequence[int]:
        await join(self, keys, rows, wanted)
        return []

    patch.setattr(CachedStore, "_join_or_read", believe)
