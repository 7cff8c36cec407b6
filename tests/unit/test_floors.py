import hypothesis.strategies as st
from hypothesis import given

from shards.keys import Key
from shards.wrappers.floors import Floors

KEYS = [Key(0, 0, 0, bytes([number]) * 16) for number in range(6)]


def test_older_than_written_is_not_allowed() -> None:
    """A version below the one written is refused for as long as a cache may hold it, and others are not."""
    floors = Floors(keep_s=10, floors_max=100)
    floors.raise_to(KEYS[0], 3, now=100)
    floors.raise_to(KEYS[0], 2, now=101)
    assert [floors.allows(KEYS[0], version, 105) for version in (2, 3, 4)] == [False, True, True]
    assert floors.allows(KEYS[1], 1, 105)


def test_first_versions_take_no_room() -> None:
    """Nothing is older than version 1, so nothing is noted of it."""
    floors = Floors(keep_s=10, floors_max=100)
    floors.raise_to(KEYS[0], 1, now=100)
    assert repr(floors) == "Floors(0/100)"


writes = st.lists(st.tuples(st.sampled_from(KEYS), st.integers(1, 5), st.floats(0, 4)), max_size=40)


@given(writes, st.integers(1, 4))
def test_nothing_older_is_ever_allowed(steps: list[tuple[Key, int, float]], floors_max: int) -> None:
    """Whatever was written, in whatever little room, no version below one written within ``keep_s`` is allowed."""
    floors = Floors(keep_s=10, floors_max=floors_max)
    written: list[tuple[Key, int, float]] = []
    now = 100.0
    for key, version, passed in steps:
        now += passed
        floors.raise_to(key, version, now)
        # what is older than a version written before was gone when that was, so it says nothing new
        if all(v <= version for k, v, _ in written if k == key):
            written.append((key, version, now))
        for asked in KEYS:
            least = max((v for k, v, when in written if k == asked and when + 10 > now), default=0)
            assert not any(floors.allows(asked, below, now) for below in range(1, least))
        assert len(floors._floors) <= floors_max


def test_too_many_floors_shut_the_cache_for_a_while() -> None:
    """When a floor had to be dropped nothing is allowed until its time is over, and then everything is again."""
    floors = Floors(keep_s=10, floors_max=1)
    floors.raise_to(KEYS[0], 2, now=100)
    floors.raise_to(KEYS[1], 2, now=101)
    assert not floors.allows(KEYS[2], 1, 109)
    assert floors.allows(KEYS[2], 1, 110)
    assert not floors.allows(KEYS[1], 1, 110)
