"""Looks at a cluster's settings when a worker connects, and says what of them weakens which promise."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, cast

from shards.settings import CassandraSettings
from shards.stores.cassandra.session import Node, Session

SKEW_MS_MAX: Final = 500
_COPIES_MIN: Final = 3
_BATCH_SHARE: Final = 0.75  # of the node's threshold: it counts keys and column overhead too, we only what they hold

_ASKED: Final = ("commitlog_sync", "batch_size_fail_threshold", "paxos_variant")
_SETTINGS: Final = f"SELECT name, value FROM system_views.settings WHERE name IN {_ASKED!r}"  # noqa: S608  constants
_CLOCK: Final = "SELECT toUnixTimestamp(now()) FROM system.local"
_SIZE: Final = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB)?")
_UNITS: Final = {None: 1024, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}  # a bare number counts KiB there


class Findings(NamedTuple):
    """What was found."""

    warnings: tuple[str, ...]
    """One line each, with the consequence."""
    batch_bytes_max: int
    """The settings' own limit, lowered to what every node takes."""
    is_unavailable_certain: bool
    """Whether the cluster's own "unavailable" means that nothing was written."""


async def inspect(session: Session, settings: CassandraSettings) -> Findings:
    """Asks every live node. A node that does not answer is left out. Raises ``StoreError``."""
    nodes = await session.ask_nodes(_SETTINGS)
    clocks = await session.ask_nodes(_CLOCK)
    keyspace = await session.ask_nodes(
        f"SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = '{settings.keyspace}'"  # noqa: S608  the name was checked to be one
    )
    copies = copies_of(keyspace[0].rows, settings.data_center) if keyspace else None
    return judge(nodes, clocks, copies, settings)


def judge(nodes: Sequence[Node], clocks: Sequence[Node], copies: int | None, settings: CassandraSettings) -> Findings:
    """Returns what the nodes' answers mean. Pure."""
    told = {node.address for node in nodes if node.rows}
    warnings = [
        f"node {node.address}: its settings cannot be read, so nobody knows whether it syncs before it answers; "
        "GRANT SELECT ON system_views.settings"
        for node in clocks
        if node.address not in told
    ]
    batch_bytes_max = settings.batch_bytes_max
    is_certain = True
    for node in nodes:
        values = {str(name): str(value) for name, value in node.rows}
        if values.get("commitlog_sync") == "periodic":
            warnings.append(
                f"node {node.address}: commitlog_sync is periodic: an acknowledged order is not on its disk yet, "
                "and is lost when the nodes that hold it are killed or lose power together; set it to group"
            )
        threshold = _bytes(values.get("batch_size_fail_threshold", ""))
        if threshold is not None and threshold * _BATCH_SHARE < batch_bytes_max:
            batch_bytes_max = int(threshold * _BATCH_SHARE)
            warnings.append(
                f"node {node.address}: batch_size_fail_threshold is {threshold} bytes: batches are cut to "
                f"{batch_bytes_max} bytes instead of {settings.batch_bytes_max}, so large orders cost more; raise it"
            )
        if not values.get("paxos_variant", "v2").startswith("v2"):
            is_certain = False
            warnings.append(
                f"node {node.address}: paxos_variant is {values['paxos_variant']}: each unavailable answer leaves the "
                "outcome of an order open until it is settled; set it to v2"
            )
    if copies is not None and copies < _COPIES_MIN:
        warnings.append(
            f"keyspace {settings.keyspace} keeps {copies} {'copy' if copies == 1 else 'copies'} in "
            f"{settings.data_center}: its orders are unavailable while one node is down, and lost with its disk; keep 3"
            if copies == 1
            else f"keyspace {settings.keyspace} keeps {copies} copies in {settings.data_center}: its orders are "
            "unavailable while one node is down; keep 3"
        )
    skew_ms = _skew_ms(clocks)
    if skew_ms > SKEW_MS_MAX:
        warnings.append(
            f"the clocks of the nodes differ by {skew_ms:.0f} ms: of two writes to the index the later may lose, and "
            "contended orders wait longer; let the nodes keep time"
        )
    return Findings(tuple(warnings), max(1_024, batch_bytes_max), is_certain)


def copies_of(rows: Sequence[tuple[object, ...]], data_center: str) -> int | None:
    """Returns the replication factor that a row of ``system_schema.keyspaces`` says; None where it says none."""
    if not rows:
        return None
    options = cast("Mapping[str, str]", rows[0][0])
    text = options.get(data_center, options.get("replication_factor", "0"))
    return int(str(text).split("/", maxsplit=1)[0])


def _skew_ms(clocks: Sequence[Node]) -> float:
    """Returns by how much the nodes' clocks differ at least, whatever the answers took."""
    earliest: list[float] = []
    latest: list[float] = []
    for node in clocks:
        told_ms = float(cast("int", node.rows[0][0]))
        earliest.append(told_ms - node.answered_s * 1_000)
        latest.append(told_ms - node.asked_s * 1_000)
    # the true offset of each node lies between its two bounds
    return max(earliest) - min(latest) if clocks else 0.0


def _bytes(text: str) -> int | None:
    match = _SIZE.fullmatch(text.strip())
    return int(match[1]) * _UNITS[match[2]] if match else None
