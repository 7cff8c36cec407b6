"""What is copied side by side."""

import asyncio

import pytest

from shards.contract import Unavailable
from shards.rebalance.copying import all_of


async def test_what_fails_ends_what_is_beside_it() -> None:
    """When the error of one is told, the others have ended: nothing is copied for a batch that was given up."""
    ended: list[str] = []

    async def copies() -> int:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("copies")
        return 1

    async def fails() -> int:
        raise Unavailable("away")

    with pytest.raises(Unavailable):
        await all_of([copies(), fails()])
    assert ended == ["copies"]


async def test_what_all_return_stands_in_order() -> None:
    """Each has its place, whichever ends first."""

    async def counts(number: int) -> int:
        for _ in range(3 - number):
            await asyncio.sleep(0)
        return number

    assert await all_of(counts(number) for number in range(3)) == [0, 1, 2]
    assert await all_of([]) == []
