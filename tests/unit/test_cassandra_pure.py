"""What the Cassandra store decides without a cluster: refusals, listing order, schema plans, what settings mean."""

import dataclasses
import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.contract import DEFERRED, SEALED, Outcome, Row, Unavailable, Verdict
from shards.settings import CassandraSettings, Credentials
from shards.stores.cassandra import checks, facts, refusals, schema
from shards.stores.cassandra.driver_session import DriverSession
from shards.stores.cassandra.facts import ShardFacts
from shards.stores.cassandra.listing import _groups, _merge
from shards.stores.cassandra.session import Node, Value
from tests.support.rows import new_row, next_version

SETTINGS = CassandraSettings(("127.0.0.1",), replication={"datacenter1": 3})


def line(row: Row, *, sealed: bool | None = None) -> dict[str, Value]:
    """A row as a refused batch shows it in full."""
    return {
        **row.key._asdict(),
        "[applied]": False,
        "sealed": sealed,
        "customer": row.customer,
        "version": row.version,
        "marks": row.marks,
        "body": row.body,
    }


# ------------------------------------------------------------------------------------------------------- refusals


def test_refused_create_learns_the_row_and_defers_the_others() -> None:
    """In a batch refused for one create, that one clashes with the row that is there, and all others are deferred."""
    there, new, update = new_row(), new_row(), next_version(new_row("other"))
    before = update._replace(marks=update.marks[:32])
    outcomes = refusals.judge([there, new, update], [line(there), line(before)])
    assert outcomes == [Outcome(Verdict.CLASH, there), DEFERRED, DEFERRED]


def test_refused_update_learns_the_row_or_that_there_is_none() -> None:
    """Beside a create, an update that lost learns the present row in full, and one without a row that there is none."""
    first = new_row()
    third = next_version(next_version(first))
    outcomes = refusals.judge([new_row("new"), next_version(first), next_version(new_row("gone"))], [line(third)])
    assert outcomes == [DEFERRED, Outcome(Verdict.CLASH, third), Outcome(Verdict.CLASH)]


def test_refused_updates_alone_must_be_read() -> None:
    """A batch of updates alone shows versions only, so whoever lost has yet to be read."""
    won, lost, gone = (next_version(new_row(name)) for name in ("won", "lost", "gone"))
    shown: list[dict[str, Value]] = [
        {"order_id": won.key.order_id, "version": 1},
        {"order_id": lost.key.order_id, "version": 4},
    ]
    assert refusals.judge([won, lost, gone], shown) == [DEFERRED, None, None]


def test_sealed_partition_refuses_what_is_new_only() -> None:
    """Where the bucket is sealed a row that is there clashes, a new one is SEALED, an update is deferred."""
    there, new = new_row(), new_row("new")
    update = next_version(new_row("other"))
    before = update._replace(marks=update.marks[:32])
    shown = [line(there, sealed=True), line(before, sealed=True)]
    assert refusals.judge([there, new, update], shown) == [Outcome(Verdict.CLASH, there), SEALED, DEFERRED]
    empty: dict[str, Value] = dict.fromkeys(line(there), None) | {"sealed": True, "[applied]": False}
    assert refusals.judge([new], [empty]) == [SEALED]


# -------------------------------------------------------------------------------------------------------- listing


@given(
    st.sets(st.integers(0, 60)).map(lambda found: sorted(found, reverse=True)),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(0, 60),
)
def test_buckets_are_looked_into_once_newest_first(indexed: list[int], first: int, last: int, lower: int) -> None:
    """Every indexed bucket and every one of the window from the lower end up comes once, in descending order."""
    wanted = set(indexed) | set(range(max(first, lower), last + 1))
    assert list(_merge(indexed, first, last, lower)) == sorted(wanted, reverse=True)


@given(st.lists(st.integers()))
def test_groups_leave_nothing_out(buckets: list[int]) -> None:
    """Groups of buckets hold each, in order, and none is larger than what is looked into at once."""
    groups = list(_groups(iter(buckets)))
    assert [bucket for group in groups for bucket in group] == buckets
    assert all(1 <= len(group) <= 8 for group in groups)


# ----------------------------------------------------------------------------------------------------- schema plans

KNOWN = schema.migrations()
FACTS = facts.first_facts(SETTINGS, 1_800_000_000_000)
TABLES = frozenset({"schema_versions", "orders", "customer_buckets", "control"})
DONE = schema.State(
    {"class": "org.apache.cassandra.locator.NetworkTopologyStrategy", "datacenter1": "3"},
    {step.version: step.checksum for step in KNOWN},
    TABLES,
    FACTS,
)


def test_everything_is_made_from_nothing() -> None:
    """Without a keyspace the plan makes it, applies every version and fixes the facts; a dry run says so."""
    plan = schema.plan(schema.State(None, {}, frozenset(), None), SETTINGS, KNOWN)
    assert plan == schema.Plan(creates_keyspace=True, migrations=KNOWN, writes_facts=True)
    assert len(plan.lines(SETTINGS)) == 2 + len(KNOWN)


def test_done_is_done() -> None:
    """Where everything is there nothing is to be done."""
    assert schema.plan(DONE, SETTINGS, KNOWN).lines(SETTINGS) == []


def test_broken_off_run_goes_on() -> None:
    """Tables without their version, as a run leaves them that was killed, are gone over again."""
    state = DONE._replace(applied={}, facts=None)
    assert schema.plan(state, SETTINGS, KNOWN).migrations == KNOWN


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (DONE._replace(applied={**DONE.applied, 99: "x"}), "use a newer one"),
        (DONE._replace(applied={**DONE.applied, 1: "x"}), "another content"),
        (DONE._replace(tables=TABLES | {"carts"}), "not ours \\(carts\\)"),
        (DONE._replace(tables=TABLES - {"orders"}), "missing \\(orders\\)"),
        (DONE._replace(replication={"class": "S", "replication_factor": "1"}), "is replicated as"),
        (DONE._replace(facts=FACTS._replace(lanes=7)), "lanes = 7"),
        (DONE._replace(facts=FACTS._replace(serial_consistency="LOCAL_SERIAL")), "LOCAL_SERIAL"),
        (DONE._replace(facts=FACTS._replace(bucket_s=60)), "60 s"),
    ],
)
def test_unknown_is_refused(state: schema.State, words: str) -> None:
    """Whatever this release does not know, or the topology file says otherwise, is left alone, with the reason."""
    with pytest.raises(schema.SchemaRefused, match=words):
        schema.plan(state, SETTINGS, KNOWN)


def test_no_orders_wait_before_the_first_bucket() -> None:
    """A new shard's first bucket is one that may not be sealed yet, so none before it takes a create unindexed."""
    now_s = 1_800_000_000
    first = facts.first_facts(SETTINGS, now_s * 1_000)
    assert first == ShardFacts(1, 600, "SERIAL", (now_s - 900) // 600)


# ---------------------------------------------------------------------------------------------------------- checks


def settings_of(**changed: str) -> Node:
    """A node that answers what is best, but for these."""
    values = {"commitlog_sync": "group", "batch_size_fail_threshold": "1024KiB", "paxos_variant": "v2", **changed}
    return Node("127.0.0.1", list(values.items()), 0.0, 0.0)


def clock_of(told_ms: int, asked_s: float, answered_s: float) -> Node:
    """A node's answer to what time it is."""
    return Node("127.0.0.1", [(told_ms,)], asked_s, answered_s)


def found(nodes: Sequence[Node], clocks: Sequence[Node] = (), copies: int | None = 3) -> checks.Findings:
    """What is found of these answers."""
    return checks.judge(nodes, clocks, copies, SETTINGS)


def test_good_settings_pass_without_a_word() -> None:
    """A cluster that keeps every promise is not warned about."""
    assert found([settings_of()]) == checks.Findings((), SETTINGS.batch_bytes_max, is_unavailable_certain=True)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (settings_of(commitlog_sync="periodic"), "is lost when"),
        (settings_of(batch_size_fail_threshold="50KiB"), "cut to 38400 bytes"),
        (settings_of(paxos_variant="v1"), "outcome of an order open"),
    ],
)
def test_weak_setting_is_named_with_its_consequence(node: Node, words: str) -> None:
    """Each setting that weakens a promise is warned about once a node, saying what follows."""
    (warning,) = found([node]).warnings
    assert words in warning


def test_limits_and_certainty_follow_the_weakest_node() -> None:
    """Batches fit the node that takes least; one node with the old Paxos makes every unavailable answer uncertain."""
    nodes = [settings_of(), settings_of(batch_size_fail_threshold="50KiB"), settings_of(paxos_variant="v1")]
    findings = found(nodes)
    assert (findings.batch_bytes_max, findings.is_unavailable_certain) == (38_400, False)


@pytest.mark.parametrize(("copies", "warnings"), [(1, 1), (2, 1), (3, 0), (5, 0), (None, 0)])
def test_few_copies_are_warned_about(copies: int | None, warnings: int) -> None:
    """Fewer than three copies are warned about; an unknown number is not."""
    assert len(found([settings_of()], copies=copies).warnings) == warnings


def test_skew_counts_only_what_round_trips_cannot_explain() -> None:
    """Clocks are compared by the bounds that each answer's round trip leaves: slow answers are no skew."""
    slow = clock_of(1_000_600, 1_000.0, 1_000.9)
    assert found([settings_of()], [clock_of(1_000_000, 1_000.0, 1_000.001), slow]).warnings == ()
    fast = clock_of(1_000_600, 1_000.0, 1_000.002)
    (warning,) = found([settings_of()], [clock_of(1_000_000, 1_000.0, 1_000.001), fast]).warnings
    assert "differ by" in warning


def test_copies_are_read_from_either_strategy() -> None:
    """The number of copies is that of our data centre, or of the simple strategy."""
    assert checks.copies_of([({"class": "N", "datacenter1": "3", "dc2": "5"},)], "datacenter1") == 3
    assert checks.copies_of([({"class": "S", "replication_factor": "1"},)], "datacenter1") == 1
    assert checks.copies_of([], "datacenter1") is None


def test_secrets_are_not_printed() -> None:
    """Printing settings shows no password."""
    settings = dataclasses.replace(SETTINGS, credentials=Credentials("crest", "sesame"))
    assert "sesame" not in repr(settings)
    assert "crest" in repr(settings)


# -------------------------------------------------------------------------------------------------------- connecting


async def test_host_that_nobody_knows_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A contact point that no name server knows is one line that names it, not a defect."""

    def nobody(*_args: object, **_options: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(Unavailable, match="node-1: UnresolvableContactPoints: none of these names is known"):
        await DriverSession.open(dataclasses.replace(SETTINGS, contact_points=("node-1",)))


async def test_host_that_can_be_no_name_is_unavailable() -> None:
    """A contact point with an empty label, for which nobody can be asked, is one line that names it."""
    with pytest.raises(Unavailable, match=r"^node\.\.1: .*label empty or too long"):
        await DriverSession.open(dataclasses.replace(SETTINGS, contact_points=("node..1",)))


async def test_unreachable_node_is_named_with_its_reason() -> None:
    """A node that cannot be reached is named with its address and why."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        port = closed.getsockname()[1]
        settings = dataclasses.replace(SETTINGS, port=port, request_timeout_s=0.5)
        with pytest.raises(Unavailable, match=rf"127\.0\.0\.1: NoHostAvailable: 127\.0\.0\.1:{port}: .*refused"):
            await DriverSession.open(settings)
