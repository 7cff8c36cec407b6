"""A real Redis Cluster for a test module: three masters and their replicas, nothing else of a development cluster."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from deploy.cluster import ClusterSpec, MissingError, RedisNode
from deploy.cluster.redis import form
from shards.caches.redis_cluster import Access
from tests.support.addresses import loopback
from tests.support.deadlines import eventually

BOOT_S: Final = 60.0

FAILOVER_MS: Final = 1_000
"""How long a master is silent before its replica takes over."""


class RedisCluster:
    """Six nodes; which of them are masters is for them to say."""

    def __init__(self, nodes: Sequence[RedisNode]) -> None:
        self.nodes = nodes
        self.prompt = Access(seeds=[(node.address, node.port) for node in nodes])
        """As a worker has it: a node that does not answer soon is taken for lost."""
        self.access = replace(self.prompt, connect_timeout_s=20.0, answer_timeout_s=20.0, open_timeout_s=60.0)
        """The same for tests that are not about that: a node that is slow, as the machine may be, is waited for."""

    def masters(self) -> list[RedisNode]:
        """The nodes that say they are masters, of those that answer."""
        return [node for node in self.nodes if node.alive and node.probe() is None and node.role() == "master"]

    def master_of(self, key: bytes) -> RedisNode:
        """The master that has a key."""
        slot = int(self.masters()[0].ask("CLUSTER", "KEYSLOT", key.decode()))
        for master in self.masters():
            for line in master.ask("CLUSTER", "NODES").splitlines():
                words = line.split()
                if "myself" not in words[2]:
                    continue
                for part in words[8:]:
                    first, _, last = part.partition("-")
                    if int(first) <= slot <= int(last or first):
                        return master
        raise AssertionError(f"nobody has slot {slot}")

    def flush(self) -> None:
        """Empties every master."""
        for master in self.masters():
            master.ask("FLUSHALL")

    def revive(self) -> None:
        """Starts and resumes whatever a test has ended or paused, at once."""
        for node in self.nodes:
            node.resume()
            node.start()

    def wait_whole(self) -> None:
        """Waits until every node serves, three of them as masters."""
        for node in self.nodes:
            node.wait_ready(BOOT_S)
        for node in self.nodes:
            node.wait_ready(BOOT_S, probe=node.probe_cluster)
        # a master that was away comes back as a replica, which the others must have heard before the next test
        eventually(lambda: len(self.masters()) == 3, "three masters", BOOT_S)


@contextmanager
def redis_cluster(folder: Path, first_port: int) -> Iterator[RedisCluster]:
    """Boots a cluster and ends it; skips the test where there is no Redis."""
    spec = ClusterSpec(first_address=loopback(28), redis_first_port=first_port, redis_node_timeout_ms=FAILOVER_MS)
    nodes = [RedisNode(spec, port, folder / str(port), dies_with_parent=True) for port in spec.redis_ports]
    try:
        try:
            for node in nodes:
                node.start()
        except MissingError as missing:
            pytest.skip(str(missing))
        for node in nodes:
            node.wait_ready(BOOT_S)
        form(nodes)
        for node in nodes:
            node.wait_ready(BOOT_S, probe=node.probe_cluster)
        yield RedisCluster(nodes)
    finally:
        for node in nodes:
            node.kill()
