"""How old CACHED answers were, by what else is known of the order: a sampler beside the proof of ``linearize``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from tests.support.history.operation import Kind, Operation, Outcome

BOUNDS_S: Final = (0.001, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the histogram."""


@dataclass(slots=True)
class Staleness:
    """Ages of CACHED answers: for how long, at least, a newer version had been there when the call began."""

    reads: int = 0
    current: int = 0
    """Answers of which no newer version is known to have been there."""
    histogram: Counter[float] = field(default_factory=Counter)
    """Stale answers by the least of ``BOUNDS_S`` that is not below their age; infinity above all."""
    oldest_s: float = 0.0
    below_min_version: int = 0
    beyond_ttl: int = 0

    def lines(self) -> list[tuple[str, int]]:
        """Returns the histogram for people: (age, answers)."""
        rows = [("current", self.current)]
        return rows + [(f"up to {bound:g} s", self.histogram[bound]) for bound in sorted(self.histogram)]


def sample(operations: Iterable[Operation], cache_ttl_s: float) -> Staleness:
    """Measures every CACHED answer against the earliest time at which anybody was shown a newer version."""
    asked = list(operations)
    shown_at: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for operation in asked:
        if operation.returned is None:
            continue
        told = operation.result
        if operation.kind is Kind.LIST:
            for entry in told.listed:
                _keep_earliest(shown_at[entry.order], entry.version, operation.returned)
        elif told.outcome is Outcome.OK:
            _keep_earliest(shown_at[told.order], told.version, operation.returned)
    found = Staleness()
    for operation in asked:
        if operation.kind is Kind.CACHED and operation.result.outcome is Outcome.OK:
            newer = [at for version, at in shown_at[operation.order].items() if version > operation.result.version]
            _count(found, operation, operation.invoked - min(newer, default=operation.invoked), cache_ttl_s)
    return found


def _keep_earliest(times: dict[int, float], version: int, at: float) -> None:
    times[version] = min(at, times.get(version, at))


def _count(found: Staleness, operation: Operation, age_s: float, cache_ttl_s: float) -> None:
    found.reads += 1
    found.below_min_version += operation.result.version < operation.min_version
    if age_s <= 0:
        found.current += 1
        return
    found.beyond_ttl += age_s > cache_ttl_s
    found.oldest_s = max(found.oldest_s, age_s)
    found.histogram[next((bound for bound in BOUNDS_S if age_s <= bound), float("inf"))] += 1
