from collections import Counter

import hypothesis.strategies as st
from hypothesis import given, settings

from shards import ring

SLOTS = 4096

weights = st.dictionaries(st.integers(0, 10_000), st.integers(1, 64), min_size=1, max_size=24)
nowhere = [ring.NOWHERE] * SLOTS


@given(weights)
def test_quotas_follow_weights(of: dict[int, int]) -> None:
    """All slots are given out, and no shard is further from its exact share than the method allows."""
    given_out = ring.quotas(of, SLOTS)
    total = sum(of.values())
    assert sum(given_out.values()) == SLOTS
    for shard, weight in of.items():
        assert abs(given_out[shard] - SLOTS * weight / total) <= 1 / 2 + len(of) / 2 * weight / total + 1e-9
    for weight in set(of.values()):
        equals = [given_out[shard] for shard in of if of[shard] == weight]
        assert max(equals) - min(equals) <= 1


@given(st.sets(st.integers(0, 10_000), min_size=1, max_size=200), st.integers(1, 9))
def test_equal_weights_give_equal_quotas(shards: set[int], weight: int) -> None:
    """Shards of equal weight differ by at most one slot, whatever the weight."""
    given_out = ring.quotas(dict.fromkeys(shards, weight), SLOTS).values()
    assert max(given_out) - min(given_out) <= 1


@given(weights, st.integers(10_001, 20_000), st.integers(1, 64))
@settings(max_examples=30)
def test_adding_moves_the_quota_of_the_newcomer_and_nothing_else(of: dict[int, int], new: int, weight: int) -> None:
    """A slot that moves when a shard is added moves to it, and it gets exactly its quota."""
    before = ring.assign(of, nowhere)
    after = ring.assign({**of, new: weight}, before)
    moved = [target for source, target in zip(before, after, strict=True) if source != target]
    assert set(moved) <= {new}
    assert Counter(after) == Counter(ring.quotas({**of, new: weight}, SLOTS))


@given(weights.filter(lambda of: len(of) > 1), st.data())
@settings(max_examples=30)
def test_removing_moves_the_slots_of_the_leaver_and_nothing_else(of: dict[int, int], data: st.DataObject) -> None:
    """A slot stays where it is unless its shard is removed, and the others then have their quotas."""
    leaver = data.draw(st.sampled_from(sorted(of)))
    before = ring.assign(of, nowhere)
    rest = {shard: weight for shard, weight in of.items() if shard != leaver}
    after = ring.assign(rest, before)
    assert all(source in (target, leaver) for source, target in zip(before, after, strict=True))
    assert Counter(after) == Counter(ring.quotas(rest, SLOTS))


@given(weights)
@settings(max_examples=20)
def test_a_balanced_assignment_stays(of: dict[int, int]) -> None:
    """Assigning anew without a change moves nothing, and the order in which shards are named says nothing."""
    before = ring.assign(of, nowhere)
    assert ring.assign(of, before) == before
    assert ring.assign(dict(reversed(of.items())), nowhere) == before


def test_the_newcomer_takes_from_all_parts() -> None:
    """The slots that a fifth shard takes from four are spread evenly over the numbers, not one run of them."""
    before = ring.assign(dict.fromkeys(range(4), 1), nowhere)
    after = ring.assign(dict.fromkeys(range(5), 1), before)
    moved = [slot for slot in range(SLOTS) if before[slot] != after[slot]]
    assert len(moved) == 819
    quarters = Counter(slot // 1024 for slot in moved)
    assert all(150 < quarters[quarter] < 260 for quarter in range(4))
