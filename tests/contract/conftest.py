"""Runs every test of the suite on every subject."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shards.contract import Store
from tests.contract.subjects import SUBJECTS, Truth


@pytest_asyncio.fixture(params=sorted(SUBJECTS))
async def truth(request: pytest.FixtureRequest) -> AsyncIterator[Truth]:
    """An empty shard of each kind."""
    truth = SUBJECTS[request.param]()
    yield truth
    await truth.close()


@pytest_asyncio.fixture
async def store(truth: Truth) -> Store:
    """A face of the shard."""
    return await truth.face()


@pytest_asyncio.fixture
async def other(truth: Truth, store: Store) -> Store:
    """A second face, as another process would have it."""
    assert store is not None
    return await truth.face()
