"""The Cassandra that tests of its store run against, and an empty keyspace in it."""

import os
from typing import Final

import pytest

from shards.settings import CassandraSettings
from shards.stores.cassandra import schema
from shards.stores.cassandra.driver_session import DriverSession

_ADDRESS: Final = "CREST_TEST_CASSANDRA"
"""Environment: the address of a node with one copy of everything, as 127.0.0.5; keyspaces of tests are made in it."""


def node_settings(driver: str, keyspace: str = "crest_test", lanes: int = 1) -> CassandraSettings:
    """Settings for a keyspace of the node; skips the test where there is none."""
    address = os.environ.get(_ADDRESS)
    if not address:
        pytest.skip(f"no Cassandra: {_ADDRESS} names no node")
    return CassandraSettings((address,), keyspace=keyspace, replication={"datacenter1": 1}, driver=driver, lanes=lanes)


async def make_empty(settings: CassandraSettings) -> None:
    """Makes the keyspace if need be, and empties it, so that it is as new."""
    known = schema.migrations()
    session = await DriverSession.open(settings)
    try:
        state = await schema.look(session, settings, known)
        for table in sorted(state.tables - {"schema_versions"}):
            await session.run(f"TRUNCATE {settings.keyspace}.{table}")
        plan = schema.plan(state._replace(facts=None), settings, known)
        await schema.apply(session, settings, plan)
    finally:
        await session.close()
