"""Which workers a client connects to."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from clients.subsetting import subset


def workers(count: int) -> list[str]:
    """So many addresses."""
    return [f"10.0.0.1:{port}" for port in range(20000, 20000 + count)]


@given(st.integers(1, 64), st.integers(0, 2**32), st.integers(1, 20), st.randoms())
def test_a_subset_is_so_many_different_workers(count: int, client: int, size: int, chance: object) -> None:
    """A client gets as many workers as it asked for, or all there are; the same in whatever order they were told."""
    told = workers(count)
    mine = subset(told, client, size)
    assert len(set(mine)) == len(mine) == min(size, count)
    assert set(mine) <= set(told)
    chance.shuffle(told)  # type: ignore[attr-defined]  # a Random
    assert set(subset(told, client, size)) == set(mine)


@given(st.integers(2, 10), st.integers(1, 6), st.integers(1, 20))
def test_numbered_clients_spread_evenly(parts: int, size: int, laps: int) -> None:
    """Clients numbered in sequence load every worker with the same number of connections."""
    told = workers(parts * size)
    load = Counter(worker for client in range(parts * laps) for worker in subset(told, client, size))
    assert set(load.values()) == {laps}
    assert len(load) == len(told)
