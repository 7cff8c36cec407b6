"""The Cassandra that tests run against: one cluster for the whole run, started, and grown, when a test asks."""

import atexit
import dataclasses
import functools
import os
import signal
import tempfile
from pathlib import Path
from typing import Final

import pytest

from deploy.cluster import Cluster, ClusterSpec, MissingError
from shards.contract import Unavailable
from shards.settings import CassandraSettings
from shards.stores.cassandra import schema
from shards.stores.cassandra.driver_session import DriverSession
from tests.support.addresses import loopback
from tests.support.waiting import until

DRIVERS: Final = ("acsylla", "cassandra-driver")

_ADDRESS: Final = "CREST_TEST_CASSANDRA"
"""Environment: ``address:port`` of a node to use instead of one of our own, to save its start while developing."""

_FOLDER: Final = "CREST_TEST_CLUSTER"
"""Environment: folder of a cluster to use, and to leave running, for the same reason."""

_FIRST_ADDRESS: Final = loopback(44)
_CQL_PORT: Final = 20_941
_REDIS_PORT: Final = 20_950


def small_cluster(directory: Path, first_address: str, cql_port: int, **changes: object) -> Cluster:
    """A cluster without Redis that boots quickly and ends with the tests."""
    return Cluster(small_spec(first_address, cql_port, **changes), directory, dies_with_parent=True)


def small_spec(first_address: str, cql_port: int, **changes: object) -> ClusterSpec:
    """The spec of such a cluster."""
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
    return ClusterSpec(**{**wanted, **changes})  # type: ignore[arg-type]  # each test names what it changes


def shared_cluster(shards: int = 1, *, redis: bool = False) -> Cluster:
    """The cluster that all tests of a run share, all of it up; grown by what is asked for beyond what there is.

    Whoever kills its nodes asks again afterwards, which revives them. Skips where there can be none.
    """
    folder = _folder()
    made = Cluster.recorded(folder) or small_cluster(folder, _FIRST_ADDRESS, _CQL_PORT, redis_first_port=_REDIS_PORT)
    spec = made.spec
    grown = dataclasses.replace(spec, shards=max(shards, spec.shards), redis=redis or spec.redis)
    cluster = Cluster(grown, folder, dies_with_parent=True)
    try:
        revive(cluster)
    except MissingError as error:
        pytest.skip(f"no Cassandra: {error}")
    return cluster


def revive(cluster: Cluster) -> None:
    """Starts whatever of a cluster does not run; returns when all of it serves."""
    cluster.up()


def kill_all_nodes(cluster: Cluster) -> None:
    """Kills every Cassandra node with -9, all before the first is seen to be gone."""
    for process in [node.process for node in cluster.cassandra]:
        if process is not None:
            process.send(signal.SIGKILL)
    for node in cluster.cassandra:
        node.kill()


@functools.cache
def _folder() -> Path:
    if given := os.environ.get(_FOLDER):
        return Path(given)
    folder = Path(tempfile.mkdtemp(prefix="crest-cassandra-"))

    def clear() -> None:
        if cluster := Cluster.recorded(folder):
            cluster.down(grace_s=0, wipe=True)

    atexit.register(clear)
    return folder


@functools.cache
def node_address() -> tuple[str, int]:
    """Host and port of one node that tests share, started now unless it runs; skips where it cannot be."""
    if given := os.environ.get(_ADDRESS):
        host, _, port = given.partition(":")
        return host, int(port or 9042)
    spec = shared_cluster().spec
    return spec.first_address, spec.cql_port


def node_settings(driver: str, keyspace: str = "crest_test", lanes: int = 1) -> CassandraSettings:
    """Settings for a keyspace of the shared node."""
    host, port = node_address()
    return settings_for(host, port, driver, keyspace, lanes)


def settings_for(host: str, port: int, driver: str, keyspace: str, lanes: int = 1) -> CassandraSettings:
    """Settings for a keyspace with one copy."""
    return CassandraSettings(
        (host,), port=port, keyspace=keyspace, replication={"datacenter1": 1}, driver=driver, lanes=lanes
    )


async def session_to(settings: CassandraSettings, timeout_s: float = 60.0) -> DriverSession:
    """Opens a session, again and again: a node that is busy, or knows no users yet, may not let one in at the first."""

    async def opened() -> DriverSession | None:
        try:
            return await DriverSession.open(settings)
        except Unavailable:
            return None

    session = await until(opened, lambda session: session is not None, timeout_s)
    assert session is not None
    return session


async def make_empty(settings: CassandraSettings) -> None:
    """Makes the keyspace if need be, and empties it, so that it is as new."""
    known = schema.migrations()
    session = await session_to(settings)
    try:
        state = await schema.look(session, settings, known)
        for table in sorted(state.tables - {"schema_versions"}):
            await session.run(f"TRUNCATE {settings.keyspace}.{table}")
        await schema.apply(session, settings, schema.plan(state._replace(facts=None), settings, known))
    finally:
        await session.close()
