"""A Cassandra node: its configuration, the command line of its JVM, and how to tell that it serves."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from deploy.cluster import cql
from deploy.cluster.node import PROBE_TIMEOUT_S, Node
from deploy.cluster.spec import CassandraPlace, ClusterSpec, CommitLogSync

DATA_CENTRE: Final = "datacenter1"
"""What SimpleSnitch calls the one data centre; drivers with a local data centre want it."""

LOGBACK: Final = Path(__file__).with_name("logback.xml")

SYNC_SETTINGS: Final[Mapping[CommitLogSync, Mapping[str, str]]] = {
    CommitLogSync.GROUP: {"commitlog_sync": "group", "commitlog_sync_group_window": "5ms"},
    CommitLogSync.BATCH: {"commitlog_sync": "batch"},
    CommitLogSync.PERIODIC: {"commitlog_sync": "periodic", "commitlog_sync_period": "10000ms"},
}

OPENED: Final = (
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.module",
    "java.base/java.lang.ref",
    "java.base/java.lang.reflect",
    "java.base/java.math",
    "java.base/java.net",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "java.logging/java.util.logging",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.management/sun.management",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.rmi/sun.rmi.transport",
    "java.rmi/sun.rmi.transport.tcp",
    "java.sql/java.sql",
    "jdk.management/com.sun.management.internal",
)
"""Packages of the JDK that Cassandra reaches into; Java 17 closes them unless told."""

TIMER_SLACK_US: Final = 500
"""By how much waits of a node may end late. Its threads that run out of work go on looking for some, every 10 us or
later (Cassandra's ``SEPWorker`` calls it spinning); several nodes on few cores pay dearly for it: docs/adr/0020."""

RING_QUERY: Final = "SELECT * FROM system_distributed.view_build_status WHERE keyspace_name = '-' AND view_name = '-'"
"""A row that does not exist, in a table that Cassandra itself keeps on three nodes."""


class CassandraNode(Node):
    """One Cassandra node, alone or in a ring. ``class_path`` is called only when the node is started."""

    timer_slack_us = TIMER_SLACK_US

    def __init__(
        self,
        spec: ClusterSpec,
        place: CassandraPlace,
        directory: Path,
        *,
        class_path: Callable[[], tuple[str, Sequence[Path]]],
        dies_with_parent: bool,
    ) -> None:
        super().__init__(place.name, directory, dies_with_parent=dies_with_parent)
        self.place: Final = place
        self._spec: Final = spec
        self._class_path: Final = class_path

    @property
    def endpoint(self) -> str:
        """Where CQL is served."""
        return f"{self.place.address}:{self._spec.cql_port}"

    @property
    def listens(self) -> tuple[tuple[str, int], ...]:
        """CQL, storage, and JMX on the one address that Java gives it."""
        jmx = () if self.place.jmx_port is None else (("127.0.0.1", self.place.jmx_port),)
        return ((self.place.address, self._spec.cql_port), (self.place.address, self._spec.storage_port), *jmx)

    def connect(self, *, timeout_s: float = PROBE_TIMEOUT_S) -> cql.Connection:
        """Opens a connection for plain queries; raises ``cql.CqlError``."""
        return cql.Connection(self.place.address, self._spec.cql_port, timeout_s=timeout_s)

    def probe(self) -> str | None:
        """Whether it answers a handshake and a query on its own tables."""
        try:
            with self.connect() as connection:
                connection.query("SELECT key FROM system.local")
        except cql.CqlError as error:
            return str(error)
        return None

    def probe_ring(self) -> str | None:
        """Whether it serves, reaches every node of its ring, and all of them know the same schema.

        Before that a CREATE may be lost, and after one a write may fail.
        """
        if self._spec.replicas == 1:
            return self.probe()
        try:
            with self.connect() as connection:
                connection.query(RING_QUERY, cql.Consistency.ALL)  # a read that all three must answer
                schemas = connection.query("SELECT schema_version FROM system.local")
                schemas += connection.query("SELECT schema_version FROM system.peers_v2")
        except cql.CqlError as error:
            return str(error)
        if len(schemas) != self._spec.replicas:
            return f"it knows {len(schemas) - 1} peers of {self._spec.replicas - 1}"
        return None if len(set(schemas)) == 1 else "the nodes do not agree on a schema yet"

    def _prepare(self) -> Sequence[str]:
        java, jars = self._class_path()
        config = self.directory / "cassandra.yaml"
        told = settings(self._spec, self.place, self.directory, log_access=log_access(self.directory))
        config.write_text(json.dumps(told, indent=2) + "\n")  # JSON is YAML, and quotes itself
        return command(self._spec, self.place, self.directory, java=java, jars=jars)


def log_access(directory: Path) -> str:
    """Returns how a node writes its commit log there: past the page cache where the file system can (docs/adr/0033).

    Cassandra's own ``auto`` looks at the size of a block only, and a node does not start where ``O_DIRECT`` is refused,
    as by a tmpfs of Linux before 6.6.
    """
    probe = directory / "direct.probe"
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_RDWR | os.O_DIRECT, 0o600))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return "mmap"
    finally:
        probe.unlink(missing_ok=True)
    return "direct"


def settings(
    spec: ClusterSpec, place: CassandraPlace, directory: Path, *, log_access: str = "direct"
) -> dict[str, object]:
    """Returns the content of ``cassandra.yaml``. Pure."""
    alone = spec.replicas == 1
    return {
        "cluster_name": f"crest-shard-{place.shard}",
        "num_tokens": 1,
        "initial_token": str(place.token),
        "auto_bootstrap": False,  # a first start streams from nobody: there is no data yet
        "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
        "endpoint_snitch": "SimpleSnitch",
        "seed_provider": [
            {
                "class_name": "org.apache.cassandra.locator.SimpleSeedProvider",
                "parameters": [{"seeds": ",".join(place.seeds)}],
            }
        ],
        "listen_address": place.address,
        "rpc_address": place.address,
        "storage_port": spec.storage_port,
        "native_transport_port": spec.cql_port,
        "start_native_transport": True,
        "authenticator": "AllowAllAuthenticator",
        "data_file_directories": [str(directory / "data")],
        "commitlog_directory": str(directory / "commitlog"),
        "saved_caches_directory": str(directory / "saved_caches"),
        "hints_directory": str(directory / "hints"),
        "cdc_raw_directory": str(directory / "cdc"),
        **SYNC_SETTINGS[spec.commit_log_sync],
        "commitlog_segment_size": "32MiB",
        "commitlog_disk_access_mode": log_access,
        "hinted_handoff_enabled": not alone,  # there is nobody to keep a hint for
        "auto_snapshot": False,  # a table dropped in a development cluster is meant to be gone
        "paxos_variant": "v2",
        # A write blocks its thread until the disk has it: with 32 of them a node ends at about 3,000 writes a second.
        "concurrent_reads": 64,
        "concurrent_writes": 256,
        "native_transport_max_threads": 256,
        # The batches of a lane are one partition each; the limits are made for batches over many.
        "batch_size_warn_threshold": "512KiB",
        "batch_size_fail_threshold": "1024KiB",
        "memtable_allocation_type": "offheap_objects",
        "memtable": {
            "configurations": {
                "skiplist": {"class_name": "SkipListMemtable"},
                "trie": {"class_name": "TrieMemtable"},
                "default": {"inherits": "trie"},
            }
        },
        "sstable": {"selected_format": "bti"},
        "storage_compatibility_mode": "NONE",
    }


def command(
    spec: ClusterSpec, place: CassandraPlace, directory: Path, *, java: str, jars: Sequence[Path]
) -> tuple[str, ...]:
    """Returns the command line of the node's JVM. Pure."""
    (jamm,) = (jar for jar in jars if jar.name.startswith("jamm-"))  # measures objects from inside, as an agent
    opened = (
        word
        for package in OPENED
        for flag in ("--add-opens", "--add-exports")
        for word in (flag, f"{package}=ALL-UNNAMED")
    )
    properties: dict[str, str | int] = {
        "jdk.attach.allowAttachSelf": "true",
        "io.netty.tryReflectionSetAccessible": "true",
        "logback.configurationFile": LOGBACK.as_uri(),
        "cassandra.config": (directory / "cassandra.yaml").as_uri(),
        "cassandra.storagedir": str(directory),
        "cassandra.triggers_dir": str(directory),
        "cassandra-foreground": "yes",
        # Waits made for rings of many machines: for gossip to settle, ranges to move, peers to hear a farewell.
        "cassandra.skip_wait_for_gossip_to_settle": 0,
        "cassandra.ring_delay_ms": 0,
        "cassandra.superuser_setup_delay_ms": 0,
        "cassandra.shutdown_announce_in_ms": 0,
        "cassandra.consistent.rangemovement": "false",
        **({} if place.jmx_port is None else {"cassandra.jmx.local.port": place.jmx_port}),
    }
    return (
        java,
        f"-Xms{spec.heap_mib}M",
        f"-Xmx{spec.heap_mib}M",
        f"-Xmn{spec.heap_mib * 2 // 5}M",  # most of what a write allocates is dead at once
        "-XX:+UseParallelGC",
        "-XX:+PerfDisableSharedMem",
        "-XX:+ExitOnOutOfMemoryError",
        *(("-XX:TieredStopAtLevel=1",) if spec.quick_start else ()),
        *opened,
        f"-javaagent:{jamm}",
        *(f"-D{name}={value}" for name, value in properties.items()),
        "-cp",
        ":".join(map(str, jars)),
        "org.apache.cassandra.service.CassandraDaemon",
    )
