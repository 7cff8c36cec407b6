"""Rows written as the server writes them: by themselves, and among those of one call."""

from shards.contract import Outcome, Row
from shards.routing import Router, Write


async def write(router: Router, row: Row, deadline: float) -> Outcome:
    """Writes a row, every other one (by its order id) as one of many. Raises as ``Router.write``."""
    asked = Write(row.key.order_id, row.customer, row.marks, row.body)
    if row.key.order_id[-1] % 2:
        return await router.write(*asked, deadline)
    (found,) = await router.write_many((asked,), deadline)
    if isinstance(found, Exception):
        raise found
    return found
