"""Which slots of a Cassandra shard are looked into by one statement."""

from hypothesis import given
from hypothesis import strategies as st

from shards.stores.cassandra.looking import named, together

numbers = st.sets(st.integers(0, 60))


@given(st.dictionaries(st.integers(0, 20), numbers))
def test_every_bucket_that_is_wanted_is_looked_into_for_its_slot(wanted: dict[int, set[int]]) -> None:
    """Grouping leaves out nothing; what most slots want is one group, and nothing is looked into twice."""
    groups = together(wanted)
    looked = [(slot, bucket) for buckets, slots in groups for bucket in buckets for slot in slots]
    assert len(looked) == len(set(looked))
    assert set(looked) >= {(slot, bucket) for slot, buckets in wanted.items() for bucket in buckets}
    assert len(groups) <= len(wanted) + 1
    in_vain = len(looked) - sum(len(buckets) for buckets in wanted.values())
    assert in_vain <= sum(len(buckets) for buckets in wanted.values()), "more is looked for in vain than not"


def test_slots_of_the_same_age_are_one_group_and_old_orders_of_one_are_its_own() -> None:
    """The last hours are looked into for all slots at once, what only one of them has for that one."""
    assert together({1: {7, 8}, 2: {7, 8}, 3: {7, 8, 2}}) == [([7, 8], [1, 2, 3]), ([2], [3])]
    assert together({1: set(), 2: set()}) == []


@given(numbers)
def test_numbers_are_named_in_groups_of_one_size(wanted: set[int]) -> None:
    """A statement binds as many values always; repeating one asks for nothing more."""
    groups = named(wanted)
    assert {number for group in groups for number in group} == wanted
    assert {len(group) for group in groups} <= {16}
