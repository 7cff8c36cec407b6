"""Whole runs of callers, workers and stores in simulated time.

``CREST_SIMULATION_SEEDS`` asks for more seeds than the few of an ordinary run. A seed that fails is played again by
``play(seed)``.
"""

import os
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Final
from weakref import WeakKeyDictionary

import pytest

from shards import judging, lanes, routing
from shards.caches.local import LocalCache
from shards.contract import (
    APPLIED,
    CommitLimits,
    Consistency,
    DeadlineExceeded,
    Outcome,
    OutcomeUnknown,
    Row,
    Unavailable,
    Verdict,
)
from shards.handing import link
from shards.handing.frames import Handed
from shards.handing.handing import Handing, HandingLanes
from shards.handing.link import Given, Link
from shards.handing.taking import Taking
from shards.keys import Key
from shards.lanes import Lanes, _Lane, _Waiter
from shards.wrappers.cached import CachedStore
from tests.simulation.world import play

SEEDS: Final = int(os.environ.get("CREST_SIMULATION_SEEDS", "100"))
SEEDS_TO_CATCH_MAX: Final = 150
"""A planted bug that so many runs do not show would be one that the simulation is blind to."""


@pytest.mark.timeout(300 + SEEDS)
def test_no_guarantee_is_broken() -> None:
    """Whatever the stores do within the law, no caller is told anything wrong, late, or not at all."""
    for seed in range(SEEDS):
        try:
            play(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_a_seed_is_a_run() -> None:
    """The same seed gives the same answers, and a run meets every kind of answer."""
    told = play(7).told
    assert play(7).told == told
    kinds = set().union(*(play(seed).told for seed in range(40)))
    assert kinds >= {
        "APPLIED",
        "CLASH",
        "SEALED",
        "OutcomeUnknown",
        "DeadlineExceeded",
        "Overloaded",
        "Invalid",
        "list",
        "handed",
        "closed",
        "silent",
        "refused",
    }


Plant = Callable[[pytest.MonkeyPatch], None]
PLANTS: dict[str, Plant] = {}


def plant(function: Plant) -> Plant:
    """Lists a bug that the simulation must show."""
    PLANTS[function.__name__] = function
    return function


@plant
def unknown_is_taken_for_not_written(patch: pytest.MonkeyPatch) -> None:
    """A commit without a reply is answered as if nothing had been written."""

    async def settle(_: Lanes, __: _Lane, part: Sequence[_Waiter], ___: Exception) -> list[_Waiter]:
        lanes._fail(part, Unavailable("surely not"))
        return []

    patch.setattr(Lanes, "_settle", settle)


@plant
def unknown_is_taken_for_applied(patch: pytest.MonkeyPatch) -> None:
    """A commit without a reply is answered as if all had been written."""

    async def settle(_: Lanes, __: _Lane, part: Sequence[_Waiter], ___: Exception) -> list[_Waiter]:
        return lanes._answer(part, [APPLIED] * len(part))

    patch.setattr(Lanes, "_settle", settle)


@plant
def one_landed_order_speaks_for_all(patch: pytest.MonkeyPatch) -> None:
    """After a commit without a reply the first row's fate is taken for that of the whole batch."""
    settle = Lanes._settle

    async def settle_first(self: Lanes, lane: _Lane, part: Sequence[_Waiter], cause: Exception) -> list[_Waiter]:
        again = await settle(self, lane, part[:1], cause)
        if again:
            return [*again, *part[1:]]
        lanes._answer(part[1:], [APPLIED] * (len(part) - 1))
        return []

    patch.setattr(Lanes, "_settle", settle_first)


@plant
def settling_does_not_read_strong(patch: pytest.MonkeyPatch) -> None:
    """Rows are settled by a read that does not settle, so they may land after having been found absent."""
    patch.setattr(lanes, "Consistency", SimpleNamespace(STRONG=Consistency.CACHED))


@plant
def a_mark_is_taken_for_the_row(patch: pytest.MonkeyPatch) -> None:
    """A row that another try of the same request stored is taken for one's own."""
    judge = judging.judge

    def by_mark(row: Row, present: Row | None) -> Outcome | None:
        if present is not None and present.mark(row.version) == row.mark(row.version):
            return APPLIED
        return judge(row, present)

    patch.setattr(lanes, "judge", by_mark)


@plant
def two_operations_of_an_order_share_a_commit(patch: pytest.MonkeyPatch) -> None:
    """Rows are taken as they come, whosever they are."""

    def take(_: Lanes, lane: _Lane, limits: CommitLimits) -> list[_Waiter]:
        count = min(len(lane.waiting), limits.rows_max)
        return [lane.waiting.popleft() for _ in range(count)]

    patch.setattr(Lanes, "_take", take)


@plant
def limits_are_read_once(patch: pytest.MonkeyPatch) -> None:
    """What a store takes is asked for when the lanes are made, and never again."""
    take = Lanes._take
    first: WeakKeyDictionary[Lanes, CommitLimits] = WeakKeyDictionary()

    def take_as_at_first(self: Lanes, lane: _Lane, limits: CommitLimits) -> Sequence[_Waiter]:
        return take(self, lane, first.setdefault(self, limits))

    patch.setattr(Lanes, "_take", take_as_at_first)


@plant
def settling_gives_its_place_away_twice(patch: pytest.MonkeyPatch) -> None:
    """A lane that settles gives its place away twice, so that more commits than allowed are under way."""

    def give_up(self: Lanes, _: _Lane) -> None:
        self._commits -= 1

    patch.setattr(Lanes, "_give_up_place", give_up)


@plant
def deferred_reaches_the_caller(patch: pytest.MonkeyPatch) -> None:
    """Deferred rows are answered so, not committed again."""

    def answer(part: Sequence[_Waiter], outcomes: Sequence[Outcome]) -> list[_Waiter]:
        for waiter, outcome in zip(part, outcomes, strict=True):
            if not waiter.outcome.done():
                waiter.outcome.set_result(outcome)
        return []

    patch.setattr(lanes, "_answer", answer)


@plant
def deferred_rows_are_lost(patch: pytest.MonkeyPatch) -> None:
    """Deferred rows are neither answered nor committed again."""
    answer = lanes._answer

    def forgetful(part: Sequence[_Waiter], outcomes: Sequence[Outcome]) -> list[_Waiter]:
        answer(part, outcomes)
        return []

    patch.setattr(lanes, "_answer", forgetful)


@plant
def a_commit_under_way_is_called_not_written(patch: pytest.MonkeyPatch) -> None:
    """At the deadline of a row that is under way the caller is told that nothing was written."""
    patch.setattr(lanes, "OutcomeUnknown", DeadlineExceeded)


@plant
def deadlines_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks at the deadlines of rows that wait."""
    patch.setattr(Lanes, "_sweep", lambda _: None)


@plant
def absence_is_taken_from_an_older_read(patch: pytest.MonkeyPatch) -> None:
    """Who joins a read believes it also when it finds nothing."""
    join = CachedStore._join_or_read

    async def believe(
        self: CachedStore, keys: Sequence[Key], rows: list[Row | None], wanted: Sequence[int]
    ) -> Sequence[int]:
        await join(self, keys, rows, wanted)
        return []

    patch.setattr(CachedStore, "_join_or_read", believe)


@plant
def refused_rows_are_remembered(patch: pytest.MonkeyPatch) -> None:
    """The cache is filled before it is known whether the store took the rows."""
    commit = CachedStore.commit

    async def hasty(self: CachedStore, rows: Sequence[Row]) -> Sequence[Outcome]:
        await self._cache.put(rows, time.monotonic())
        return await commit(self, rows)

    patch.setattr(CachedStore, "commit", hasty)


@plant
def the_cache_forgets_to_forget(patch: pytest.MonkeyPatch) -> None:
    """A remembered row is answered however old it is."""

    def get(self: LocalCache, key: Key, _: float) -> Row | None:
        entry = self._entries.get(key)
        return entry and entry[0]

    patch.setattr(LocalCache, "_get", get)


@plant
def the_minimum_version_is_ignored(patch: pytest.MonkeyPatch) -> None:
    """A cached answer is given though the caller has seen a newer one."""
    read = routing.Router.read

    async def careless(
        self: routing.Router, order_id: bytes, consistency: Consistency, *, min_version: int, deadline: float
    ) -> Row | None:
        return await read(self, order_id, consistency, min_version=min(min_version, 0), deadline=deadline)

    patch.setattr(routing.Router, "read", careless)


@plant
def strong_reads_ask_the_cache(patch: pytest.MonkeyPatch) -> None:
    """A STRONG read is answered from memory."""
    read = CachedStore.read

    async def weak(self: CachedStore, keys: Sequence[Key], _: Consistency) -> Sequence[Row | None]:
        return await read(self, keys, Consistency.CACHED)

    patch.setattr(CachedStore, "read", weak)


@plant
def a_lost_race_is_called_applied(patch: pytest.MonkeyPatch) -> None:
    """A create that finds another's order in its place is answered as its own."""
    answer = lanes._answer

    def greedy(part: Sequence[_Waiter], outcomes: Sequence[Outcome]) -> list[_Waiter]:
        return answer(part, [APPLIED if outcome.verdict is Verdict.CLASH else outcome for outcome in outcomes])

    patch.setattr(lanes, "_answer", greedy)


@plant
def a_row_that_comes_back_is_not_in_doubt(patch: pytest.MonkeyPatch) -> None:
    """A row whose committer is gone is committed as if nobody else had it."""
    back = HandingLanes.back

    def sure(self: HandingLanes, given: Given, *, is_unknown: bool) -> None:
        back(self, given, is_unknown=is_unknown and False)

    patch.setattr(HandingLanes, "back", sure)


@plant
def an_unknown_outcome_there_is_taken_for_nothing_done(patch: pytest.MonkeyPatch) -> None:
    """A row of which its committer does not know is committed as if it had refused it."""
    patch.setattr(link, "_NOTHING_DONE", (*link._NOTHING_DONE, OutcomeUnknown))


@plant
def rows_handed_over_are_handed_on(patch: pytest.MonkeyPatch) -> None:
    """Who takes a row hands it to whom it takes for the committer."""
    around = Handing.around

    def handing_on(self: Handing, shard: int, own: Lanes, memory: CachedStore, *, lanes: int) -> HandingLanes:
        handing = around(self, shard, own, memory, lanes=lanes)
        self._lanes[shard] = handing  # type: ignore[assignment]  # the bug
        return handing

    patch.setattr(Handing, "around", handing_on)


@plant
def what_is_taken_is_called_applied(patch: pytest.MonkeyPatch) -> None:
    """Who takes a row answers before it is committed."""
    take = Taking._take

    def hasty(self: Taking, handed: Handed) -> None:
        self._answer(handed.number, APPLIED)
        take(self, handed)

    patch.setattr(Taking, "_take", hasty)


@plant
def deadlines_of_rows_handed_over_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Who has handed a row over waits for its answer, however long that takes."""
    patch.setattr(Link, "_tick", lambda _: None)


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation shows each bug of the list, so a run without violations means something."""
    PLANTS[name](monkeypatch)
    for seed in range(SEEDS_TO_CATCH_MAX):
        try:
            play(seed)
        except (AssertionError, BaseExceptionGroup):
            return
    pytest.fail(f"{SEEDS_TO_CATCH_MAX} runs did not show it")
