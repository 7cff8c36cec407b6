from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shards.handing.committers import committers

SHARDS = st.integers(1, 12)
LANES = st.integers(1, 6)
WORKERS = st.integers(1, 9)


@given(SHARDS, LANES, WORKERS)
def test_lanes_are_dealt_out_evenly(shards: int, lanes: int, workers: int) -> None:
    """With all workers serving, none commits more than one lane more than another."""
    counts = Counter(dict.fromkeys(range(workers), 0))
    for shard in range(shards):
        counts.update(number for number in committers(shard, lanes, set(range(workers)), workers) if number is not None)
    assert counts.total() == shards * lanes
    assert max(counts.values()) - min(counts.values()) <= 1


@given(SHARDS, LANES, WORKERS, st.data())
def test_only_lanes_of_who_does_not_serve_change(shard: int, lanes: int, workers: int, data: st.DataObject) -> None:
    """A worker that stops serving gives up its lanes, each to one that serves, and no other lane changes."""
    before = committers(shard, lanes, set(range(workers)), workers)
    gone = data.draw(st.sets(st.integers(0, workers - 1), max_size=workers - 1))
    after = committers(shard, lanes, set(range(workers)) - gone, workers)
    assert not gone.intersection(number for number in after if number is not None)
    assert all(now == was for was, now in zip(before, after, strict=True) if was not in gone)


@given(SHARDS, LANES, WORKERS, st.data())
def test_who_lags_commits_for_nobody(shard: int, lanes: int, workers: int, data: st.DataObject) -> None:
    """Lanes of a worker that lags go where they would go if it did not serve, unless all who serve lag."""
    serving = data.draw(st.sets(st.integers(0, workers - 1)))
    lagging = data.draw(st.sets(st.integers(0, workers - 1)))
    found = committers(shard, lanes, serving, workers, lagging)
    assert found == committers(shard, lanes, serving - lagging or serving, workers)


def test_nobody_serves_nobody_commits_for_others() -> None:
    """While no worker is known to serve, no lane has a committer."""
    assert committers(1, 2, set(), 3) == (None, None)
