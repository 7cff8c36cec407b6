import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from shards.keys import SLOTS
from shards.topology import SHARDS_MAX, ShardInfo, Topology, TopologyDamaged


def grown(steps: list[int]) -> Topology:
    """A topology that shards of these weights joined (positive) and that its oldest shard left (0)."""
    topology = Topology.initial(2)
    for weight in steps:
        if weight:
            topology = topology.with_shard_added(weight)
        elif len(topology.shards) > 1:
            topology = topology.with_shard_removed(topology.shards[0].id)
    return topology


histories = st.lists(st.integers(0, 5), max_size=6).map(grown)


@given(histories)
@settings(max_examples=30)
def test_bytes_round_trip(topology: Topology) -> None:
    """A topology read from its bytes is the same."""
    assert Topology.from_bytes(topology.to_bytes()) == topology


@given(histories)
@settings(max_examples=30)
def test_a_table_is_complete(topology: Topology) -> None:
    """Every slot lies on a shard that is there, ids ascend, and none is given out twice."""
    ids = [shard.id for shard in topology.shards]
    assert ids == sorted(set(ids))
    assert max(ids) < topology.next_shard_id
    assert set(topology.slot_shards) <= set(ids)
    assert len(topology.slot_shards) == len(topology.slot_gens) == SLOTS


@given(histories, st.integers(1, 9))
@settings(max_examples=20)
def test_gens_rise_where_slots_move(before: Topology, weight: int) -> None:
    """Adding a shard raises the epoch by one, and the gen of exactly the slots that move."""
    after = before.with_shard_added(weight)
    assert after.epoch == before.epoch + 1
    for slot in range(SLOTS):
        moved = before.slot_shards[slot] != after.slot_shards[slot]
        assert after.slot_gens[slot] == before.slot_gens[slot] + moved


def test_a_slot_that_returns_has_another_gen() -> None:
    """Slots that move away and back have risen by two, so rows of the first stay are out of reach."""
    first = Topology.initial(4)
    back = first.with_shard_added().with_shard_removed(4)
    returned = [s for s in range(SLOTS) if back.slot_gens[s] == 2 and back.slot_shards[s] == first.slot_shards[s]]
    assert returned
    assert back.with_shard_added().shards[-1] == ShardInfo(5, 1)


@given(histories.map(Topology.to_bytes), st.data())
@settings(max_examples=50)
def test_damage_is_noticed(raw: bytes, data: st.DataObject) -> None:
    """Bytes of which one is changed, or any are cut off or added, are refused."""
    at = data.draw(st.integers(0, len(raw) - 1))
    flip = data.draw(st.integers(1, 255))
    for damaged in (raw[:at] + bytes([raw[at] ^ flip]) + raw[at + 1 :], raw[:at], raw + b"\0"):
        with pytest.raises(TopologyDamaged):
            Topology.from_bytes(damaged)


def test_a_newer_format_is_named() -> None:
    """The bytes of a later release are refused with its format, not as damage."""
    raw = Topology.initial(1).to_bytes()
    with pytest.raises(TopologyDamaged, match="format 2; this release reads format 1"):
        Topology.from_bytes(raw[:10] + b"\0\2" + raw[12:])


def test_impossible_changes_are_refused() -> None:
    """No topology without a shard, with too many, of no weight, or without one that is not there."""
    for count in (0, SHARDS_MAX + 1):
        with pytest.raises(ValueError, match="shards; allowed are"):
            Topology.initial(count)
    one = Topology.initial(1)
    with pytest.raises(ValueError, match="weight 0"):
        one.with_shard_added(0)
    with pytest.raises(ValueError, match="the last shard"):
        one.with_shard_removed(0)
    with pytest.raises(ValueError, match="no shard 7"):
        one.with_shard_removed(7)


def test_repr_shows_the_balance() -> None:
    """The text of a topology tells its epoch and how many slots each shard has."""
    assert repr(Topology.initial(4)) == "Topology(epoch=1, slots={0: 1024, 1: 1024, 2: 1024, 3: 1024})"
