"""What a caller knows of where orders live."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.placing import SLOTS, UNKNOWN, Placing, slot
from shards.keys import slot_and_tag


@given(st.text(st.characters(codec="utf-8")))
def test_a_customer_has_the_slot_that_the_service_sees(customer_id: str) -> None:
    """Caller and service compute the same slot."""
    assert slot(customer_id) == slot_and_tag(customer_id)[0]


def test_a_customer_is_on_the_shard_of_its_slot() -> None:
    """The table says the shard; without one all customers are on the same."""
    placing = Placing()
    assert {placing.shard(name) for name in ("zoe", "max", "")} == {UNKNOWN}
    placing.adopt(range(SLOTS))
    assert placing.shard("zoe") == slot("zoe")


@pytest.mark.parametrize("slots", [0, 1, SLOTS - 1, SLOTS + 1])
def test_a_table_that_is_none_is_not_used(slots: int) -> None:
    """A topology without all slots places nobody, also after one that did."""
    placing = Placing()
    placing.adopt([7] * SLOTS)
    placing.adopt([7] * slots)
    assert placing.shard("zoe") == UNKNOWN
