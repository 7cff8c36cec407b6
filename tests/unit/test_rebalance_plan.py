"""Plans: exact, as small as can be, and refused with a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.contract import SlotSize
from shards.keys import SLOTS
from shards.rebalance import plan
from shards.rebalance.plan import PlanRefused, make_plan
from shards.rebalance.record import Kind, start
from shards.ring import quotas
from shards.topology import Topology

SIZES = {slot: SlotSize(slot % 7, slot % 7 * 300) for slot in range(SLOTS)}
weights = st.integers(1, 9)


def grown(steps: list[int]) -> Topology:
    """A topology after shards of these weights have been added to a first one."""
    topology = Topology.initial(1)
    for weight in steps:
        topology = topology.with_shard_added(weight)
    return topology


@pytest.mark.parametrize("shards", range(1, 9))
def test_an_added_shard_gets_its_share_and_no_more(shards: int) -> None:
    """Adding a shard to n equal ones moves 1/(n+1) of the slots, within one, and all of them to the newcomer."""
    topology = Topology.initial(shards)
    made = make_plan(Kind.ADD, topology, plan.add(topology), SIZES)
    assert abs(len(made.targets) - SLOTS / (shards + 1)) < 1
    assert set(made.targets.values()) == {shards}
    assert made.added == (shards,)
    slots = [load.slots for load in made.after]
    assert max(slots) - min(slots) <= 1


@given(st.lists(weights, min_size=1, max_size=5), st.data())
def test_no_plan_moves_more_than_it_must(steps: list[int], data: st.DataObject) -> None:
    """Whatever is added, drained or reweighted, the fewest slots move that fill the quotas."""
    topology = grown(steps)
    kind = data.draw(st.sampled_from([Kind.ADD, Kind.DRAIN, Kind.REWEIGHT]))
    if kind is Kind.ADD:
        wanted = plan.add(topology, data.draw(weights))
    elif kind is Kind.DRAIN:
        wanted = plan.drain(topology, data.draw(st.sampled_from(topology.shards)).id)
    else:
        wanted = plan.reweight(topology, {info.id: data.draw(weights) for info in topology.shards})
    if wanted.slot_shards == topology.slot_shards:
        return
    made = make_plan(kind, topology, wanted, SIZES)
    assert len(made.targets) == made.minimum
    assert {load.shard: load.slots for load in made.after if load.slots} == quotas(dict(wanted.shards), SLOTS)
    assert sum(load.rows for load in made.before) == sum(load.rows for load in made.after)
    assert made.rows == sum(SIZES[slot].rows for slot in made.targets)
    assert made.bytes == sum(SIZES[slot].bytes for slot in made.targets)


@given(st.integers(1, 6), st.integers(0, SLOTS - 1))
def test_a_hot_slot_is_split_off_alone(shards: int, slot: int) -> None:
    """A slot that is split off onto a new shard is the only one that moves, and the only one there."""
    topology = Topology.initial(shards)
    made = make_plan(Kind.SPLIT, topology, plan.split(topology, [slot], None), SIZES)
    assert dict(made.targets) == {slot: shards}
    assert made.after[-1].slots == 1
    assert made.sources[slot] == topology.slot_shards[slot]


def test_what_was_added_can_be_taken_back() -> None:
    """Reversing a finished rebalance moves exactly its slots, each to where it was."""
    topology = Topology.initial(3)
    wanted = plan.add(topology)
    made = make_plan(Kind.ADD, topology, wanted, {})
    record = start(topology, made.targets, made.shards_after, kind=Kind.ADD, who="test")
    with pytest.raises(PlanRefused, match="cancel it first"):
        plan.reverse(topology, record)
    done = record.after(next(c for c in type(record.entries[0].command) if c.value == "finish"), "test")
    back = make_plan(Kind.REVERSE, wanted, plan.reverse(wanted, done), {})
    assert back.targets == made.sources
    assert [load.slots for load in back.after if load.slots] == [topology.slot_shards.count(n) for n in range(3)]


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        (lambda t: plan.drain(t, 9), "there is no shard 9"),
        (lambda t: plan.reweight(t, {9: 1}), "there is no shard 9; there are 0, 1, 2"),
        (lambda t: plan.reweight(t, {0: 0}), "weight 0; allowed are 1-65535"),
        (lambda t: plan.add(t, 0), "weight 0"),
        (lambda t: plan.split(t, [1], 7), "there is no shard 7"),
        (lambda t: plan.split(t, [], None), "at least one"),
        (lambda t: plan.split(t, [], 1), "at least one"),
        (lambda t: plan.split(t, [4096], None), "slots are 0-4095"),
        (lambda t: plan.reverse(t, None), "no rebalance yet"),
        (lambda t: make_plan(Kind.REWEIGHT, t, plan.reweight(t, {}), {}), "nothing would move"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(refused: object, why: str) -> None:
    """A plan that cannot be is refused in one line that names what could."""
    assert callable(refused)
    with pytest.raises(PlanRefused, match=why):
        refused(Topology.initial(3))
