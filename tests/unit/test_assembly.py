"""What an operator sets is what an assembled worker does."""

import asyncio
import dataclasses
import os
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from server.config import Config
from server.worker import storage_settings
from shards.assembly import StorageSettings, open_router, prepare
from shards.contract import APPLIED, Consistency, Overloaded
from shards.routing import Router
from tests.support.observers import Notes
from tests.support.rows import new_row, soon

Open = Callable[..., Any]


@pytest.fixture
def assembled(tmp_path: Path) -> Open:
    """Opens a router over one shard with settings changed."""

    @asynccontextmanager
    async def opened(notes: Notes, **changes: Any) -> Any:  # noqa: ANN401  # settings by name
        settings = StorageSettings(data_dir=tmp_path / "data", shards=1, **changes)
        lock = prepare(settings)
        router = await open_router(settings, notes)
        try:
            yield router
        finally:
            await router.close()
            os.close(lock)

    return opened


async def write_at_once(router: Router, count: int) -> list[Any]:
    """Writes so many orders in one turn of the event loop; returns outcomes and errors."""
    rows = [new_row(f"customer {n}") for n in range(count)]
    return await asyncio.gather(
        *[router.write(row.key.order_id, row.customer, row.marks, row.body, soon()) for row in rows],
        return_exceptions=True,
    )


async def test_writes_are_bounded_as_set(assembled: Open) -> None:
    """Of writes at once the number that is set is taken, and the others are refused at once as Overloaded."""
    async with assembled(Notes(), queue_rows_max=3) as router:
        answers = await write_at_once(router, 5)
        assert answers[:3] == [APPLIED] * 3
        assert [type(answer) for answer in answers[3:]] == [Overloaded] * 2
        assert await write_at_once(router, 1) == [APPLIED]


async def test_reads_are_bounded_as_set(assembled: Open) -> None:
    """Of reads at once the number that is set is taken, and the others are refused at once as Overloaded."""
    async with assembled(Notes(), reads_max=2) as router:
        reads = [router.read(new_row().key.order_id, Consistency.STRONG, deadline=soon()) for _ in range(4)]
        answers = await asyncio.gather(*reads, return_exceptions=True)
        assert answers[:2] == [None, None]
        assert [type(answer) for answer in answers[2:]] == [Overloaded] * 2


@pytest.mark.parametrize(
    ("changes", "event"),
    [({}, "hit"), ({"cache_ttl_s": 1e-9}, "miss"), ({"cache_rows_max": 0}, "miss"), ({"cache_bytes_max": 1}, "miss")],
    ids=str,
)
async def test_a_worker_remembers_as_set(assembled: Open, changes: dict[str, Any], event: str) -> None:
    """What was written is answered from memory, within the lifetime, the number and the bytes that are set."""
    notes = Notes()
    async with assembled(notes, **changes) as router:
        row = new_row()
        await router.write(row.key.order_id, row.customer, row.marks, row.body, soon())
        assert await router.read(row.key.order_id, Consistency.CACHED, deadline=soon()) == row
        assert notes.cache_events[event] == 1


def test_every_setting_of_the_store_reaches_it() -> None:
    """Each setting of the server that shards know by the same name is handed to them as it was set."""
    names = {field.name for field in dataclasses.fields(StorageSettings)}
    names &= {field.name for field in dataclasses.fields(Config)}
    assert {"data_dir", "shards", "queue_rows_max", "cache_rows_max", "cache_ttl_s"} <= names
    plain = Config()
    changes: dict[str, Any] = {"data_dir": Path("elsewhere")}
    changes |= {name: getattr(plain, name) + 1 for name in names if isinstance(getattr(plain, name), int | float)}
    handed = storage_settings(dataclasses.replace(plain, **changes))
    assert {name: getattr(handed, name) for name in changes} == changes
