"""Lanes as tests open them."""

from shards.contract import Row, Store
from shards.lanes import Lanes
from tests.support.observers import Notes
from tests.support.rows import key_in_slot, new_row


def lanes_over(store: Store, *, queue_rows_max: int = 100, observer: Notes | None = None) -> Lanes:
    """The lanes of shard 0."""
    return Lanes(store, shard=0, queue_rows_max=queue_rows_max, observer=observer or Notes())


def row_in_slot(slot: int) -> Row:
    """A new row whose lane follows from this slot."""
    return new_row()._replace(key=key_in_slot(slot))
