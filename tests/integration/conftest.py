"""What several suites of the client library share."""

from collections.abc import AsyncIterator

import pytest

from tests.support.scripted_server import ScriptedServer


@pytest.fixture
async def server(request: pytest.FixtureRequest) -> AsyncIterator[ScriptedServer]:
    """A worker that fails on cue, on the address that the test's module has to itself (``HOST``)."""
    async with ScriptedServer(f"{request.module.HOST}:0") as server:
        yield server
