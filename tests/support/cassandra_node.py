"""The Cassandra that tests of its store run against: one node for the whole run, started when the first test asks."""

import atexit
import functools
import os
import tempfile
from pathlib import Path
from typing import Final

import pytest

from deploy.cluster import Cluster, ClusterSpec, MissingError
from shards.settings import CassandraSettings
from shards.stores.cassandra import schema
from shards.stores.cassandra.driver_session import DriverSession

DRIVERS: Final = ("acsylla", "cassandra-driver")

_ADDRESS: Final = "CREST_TEST_CASSANDRA"
"""Environment: ``address:port`` of a node to use instead of one of our own, to save its start while developing."""


def small_cluster(directory: Path, first_address: str, cql_port: int, **changes: object) -> Cluster:
    """A cluster without Redis that boots quickly and ends with the tests."""
    wanted = {
        "shards": 1,
        "redis": False,
        "first_address": first_address,
        "cql_port": cql_port,
        "storage_port": cql_port + 1,
        "jmx_first_port": None,
        "heap_mib": 512,
        "quick_start": True,
    }
    spec = ClusterSpec(**{**wanted, **changes})  # type: ignore[arg-type]  # each test names what it changes
    return Cluster(spec, directory, dies_with_parent=True)


@functools.cache
def node_address() -> tuple[str, int]:
    """Host and port of the node that tests share, started now unless it runs; skips where it cannot be."""
    if given := os.environ.get(_ADDRESS):
        host, _, port = given.partition(":")
        return host, int(port or 9042)
    cluster = small_cluster(Path(tempfile.mkdtemp(prefix="crest-cassandra-")), "127.0.0.41", 20_941)
    try:
        cluster.up()
    except MissingError as error:
        pytest.skip(f"no Cassandra: {error}")
    atexit.register(lambda: cluster.down(grace_s=0, wipe=True))
    return cluster.spec.first_address, cluster.spec.cql_port


def node_settings(driver: str, keyspace: str = "crest_test", lanes: int = 1) -> CassandraSettings:
    """Settings for a keyspace of the shared node."""
    host, port = node_address()
    return settings_for(host, port, driver, keyspace, lanes)


def settings_for(host: str, port: int, driver: str, keyspace: str, lanes: int = 1) -> CassandraSettings:
    """Settings for a keyspace with one copy."""
    return CassandraSettings(
        (host,), port=port, keyspace=keyspace, replication={"datacenter1": 1}, driver=driver, lanes=lanes
    )


async def make_empty(settings: CassandraSettings) -> None:
    """Makes the keyspace if need be, and empties it, so that it is as new."""
    known = schema.migrations()
    session = await DriverSession.open(settings)
    try:
        state = await schema.look(session, settings, known)
        for table in sorted(state.tables - {"schema_versions"}):
            await session.run(f"TRUNCATE {settings.keyspace}.{table}")
        await schema.apply(session, settings, schema.plan(state._replace(facts=None), settings, known))
    finally:
        await session.close()
