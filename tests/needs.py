"""What the whole suite needs beside Python, fetched or installed before the first test: ``python -m tests.needs``.

A single test that needs what is missing is skipped with the reason; a whole run without Cassandra would prove little,
so it stops here and names everything that is missing. Quick when all is there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from bench.installed import InstallError
from bench.peers import building
from deploy.cluster import jars, redis
from deploy.cluster.errors import ClusterError

NEEDS: Final[tuple[Callable[[], object], ...]] = (
    jars.java,
    lambda: jars.ensure(jars.default_directory()),
    redis.server,
    building.ensure,
)
"""Each returns when its need is met, and else raises an error whose text says what to install."""


def missing(needs: tuple[Callable[[], object], ...] = NEEDS) -> list[str]:
    """Returns a line for each need that is not met, in order and each once; empty when the suite can run."""
    found: dict[str, None] = {}
    for meet in needs:
        try:
            meet()
        except (ClusterError, InstallError) as error:
            found[str(error)] = None
    return list(found)


def main() -> int:
    """Returns the exit code: 1 when something is missing."""
    print("needs: Java, Cassandra's jars, redis-server, the peers in Go", flush=True)
    lines = missing()
    for line in lines:
        print(f"missing: {line}", file=sys.stderr)
    if lines:
        print(
            'the whole suite needs these; what runs without: make test ARGS="tests/unit tests/model"', file=sys.stderr
        )
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
