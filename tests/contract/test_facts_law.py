"""The law of facts (``shards.facts``), held against every home of them."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shards.facts import Fact, Facts, Guard
from shards.topology import Topology
from shards.topology_store import TopologyStore
from tests.contract.facts_subjects import HOMES, Home

DOC = "doc"


@pytest_asyncio.fixture(params=sorted(HOMES))
async def home(request: pytest.FixtureRequest) -> AsyncIterator[Home]:
    """An empty home of each kind."""
    home = HOMES[request.param]()
    yield home
    await home.close()


@pytest_asyncio.fixture
async def facts(home: Home) -> Facts:
    """The facts as one process has them."""
    return await home.face()


@pytest_asyncio.fixture
async def other(home: Home, facts: Facts) -> Facts:
    """The same as another process has them."""
    assert facts is not None
    return await home.face()


async def test_fact_is_created_once(facts: Facts, other: Facts) -> None:
    """Whoever creates a fact second learns the first one, and everybody reads that."""
    assert await facts.read("s", "n") is None
    assert await facts.revision("s", "n") == 0
    first = Fact(1, b"\0one\xff")
    assert await facts.create("s", "n", first) == first
    assert await other.create("s", "n", Fact(9, b"two")) == first
    assert await other.read("s", "n") == await other.glance("s", "n") == first
    assert await other.revision("s", "n") == 1


async def test_replace_knows_the_revision(facts: Facts, other: Facts) -> None:
    """A fact is replaced by who names its revision, and where there is none nothing is."""
    assert not await facts.replace("s", "n", 1, Fact(2, b""))
    assert await facts.read("s", "n") is None
    await facts.create("s", "n", Fact(1, b"one"))
    assert await other.replace("s", "n", 1, Fact(5, b"five"))
    assert not await facts.replace("s", "n", 1, Fact(2, b"two"))
    assert not await facts.replace("s", "n", 4, Fact(6, b"six"))
    assert await facts.read("s", "n") == Fact(5, b"five")
    assert await other.replace("s", "n", 5, Fact(6, b""))
    assert await facts.glance("s", "n") == Fact(6, b"")


async def test_scopes_and_names_are_apart(facts: Facts, other: Facts) -> None:
    """A list holds all facts of its scope and no other, the latest of each."""
    for name in ("a", "b"):
        await facts.create("s", name, Fact(1, name.encode()))
    await facts.create("t", "a", Fact(7, b"t"))
    await other.replace("s", "b", 1, Fact(2, b"later"))
    assert await facts.list("s") == {"a": Fact(1, b"a"), "b": Fact(2, b"later")}
    assert await facts.list("nothing") == {}


async def test_delete_knows_the_revision(facts: Facts, other: Facts) -> None:
    """A fact of the named revision goes; asked again, it is gone; another one stays."""
    await facts.create("s", "n", Fact(3, b"x"))
    assert not await other.delete("s", "n", 2)
    assert await other.delete("s", "n", 3)
    assert await facts.delete("s", "n", 3)
    assert await facts.read("s", "n") is None
    assert await facts.list("s") == {}
    assert not await facts.replace("s", "n", 3, Fact(4, b""))
    assert await facts.create("s", "n", Fact(1, b"again")) == Fact(1, b"again")


async def test_grant_needs_the_guard_and_room(facts: Facts, other: Facts) -> None:
    """A grant happens only under the guard's revision, and only where there is no such fact."""
    lease = Fact(1, b"lease")
    assert not await facts.grant("s", "lease", lease, Guard(DOC, 1))
    await facts.create("s", DOC, Fact(4, b"doc"))
    assert not await facts.grant("s", "lease", lease, Guard(DOC, 3))
    assert await facts.read("s", "lease") is None
    assert await facts.grant("s", "lease", lease, Guard(DOC, 4))
    assert not await other.grant("s", "lease", Fact(2, b"second"), Guard(DOC, 4))
    assert await other.list("s") == {"lease": lease, DOC: Fact(4, b"doc")}


async def test_nothing_is_renewed_under_a_guard_that_was_replaced(facts: Facts, other: Facts) -> None:
    """After the guard's fact was replaced no renewal under the old revision happens, and one under the new does."""
    await facts.create("s", DOC, Fact(1, b"doc"))
    assert await facts.grant("s", "lease", Fact(1, b"1"), Guard(DOC, 1))
    assert await facts.renew("s", "lease", Fact(2, b"2"), Guard(DOC, 1))
    assert await other.replace("s", DOC, 1, Fact(2, b"paused"))
    assert not await facts.renew("s", "lease", Fact(3, b"3"), Guard(DOC, 1))
    assert not await facts.grant("s", "another", Fact(1, b""), Guard(DOC, 1))
    assert await other.list("s") == {"lease": Fact(2, b"2"), DOC: Fact(2, b"paused")}
    assert await facts.renew("s", "lease", Fact(4, b"4"), Guard(DOC, 2))
    assert await other.read("s", "lease") == Fact(4, b"4")
    assert await other.read("s", DOC) == Fact(2, b"paused")
    assert await other.replace("s", DOC, 2, Fact(3, b"served"))


async def test_renewals_may_overtake_each_other(facts: Facts, other: Facts) -> None:
    """A renewal that arrives after a later one changes nothing, and none brings back what was deleted."""
    await facts.create("s", DOC, Fact(1, b"doc"))
    await facts.grant("s", "lease", Fact(1, b"1"), Guard(DOC, 1))
    assert await facts.renew("s", "lease", Fact(8, b"8"), Guard(DOC, 1))
    assert not await other.renew("s", "lease", Fact(7, b"7"), Guard(DOC, 1))
    assert not await other.renew("s", "lease", Fact(8, b"again"), Guard(DOC, 1))
    assert await facts.read("s", "lease") == Fact(8, b"8")
    assert await other.delete("s", "lease", 8)
    assert not await facts.renew("s", "lease", Fact(9, b"9"), Guard(DOC, 1))
    assert await facts.list("s") == {DOC: Fact(1, b"doc")}


async def test_what_is_told_needs_no_condition(facts: Facts, other: Facts) -> None:
    """What a process told last is listed for all, whatever became of the facts beside it; what is deleted is gone."""
    await facts.tell("s", "word", Fact(1, b"1"))
    await other.create("s", DOC, Fact(1, b"doc"))
    await facts.tell("s", "word", Fact(2, b"2"))
    assert await other.list("s") == {"word": Fact(2, b"2"), DOC: Fact(1, b"doc")}
    await asyncio.gather(*(facts.tell("s", "word", Fact(revision, b"%d" % revision)) for revision in range(3, 20)))
    assert await other.glance("s", "word") == await other.read("s", "word") == Fact(19, b"19")
    assert await other.delete("s", "word", 19)
    assert await facts.list("s") == {DOC: Fact(1, b"doc")}


async def test_one_of_many_replacements_wins(facts: Facts, other: Facts) -> None:
    """Counting by many at once loses no step: each revision was written by exactly one."""
    await facts.create("s", "n", Fact(1, b""))
    won: list[int] = []

    async def count(face: Facts, name: int) -> None:
        while (fact := await face.read("s", "n")) is not None and fact.revision < 25:
            if await face.replace("s", "n", fact.revision, Fact(fact.revision + 1, b"%d" % name)):
                won.append(fact.revision + 1)

    await asyncio.gather(*(count((facts, other)[n % 2], n) for n in range(6)))
    assert sorted(won) == list(range(2, 26))


async def test_no_lease_survives_a_pause_unnoticed(facts: Facts, other: Facts) -> None:
    """Whoever replaced the guard lists every renewal that came before, and none comes after."""
    await facts.create("s", DOC, Fact(1, b""))
    names = [f"lease{n}" for n in range(4)]
    for name in names:
        await facts.grant("s", name, Fact(1, b"1"), Guard(DOC, 1))
    renewed: dict[str, int] = dict.fromkeys(names, 1)
    refused = asyncio.Event()

    async def renew(name: str) -> None:
        for revision in range(2, 200):
            if not await facts.renew("s", name, Fact(revision, b"1"), Guard(DOC, 1)):
                refused.set()
                return
            renewed[name] = revision

    async def pause() -> dict[str, int]:
        for _ in range(random.randrange(8)):
            await other.revision("s", DOC)
        assert await other.replace("s", DOC, 1, Fact(2, b"paused"))
        return {name: fact.revision for name, fact in (await other.list("s")).items() if name != DOC}

    seen, *_ = await asyncio.gather(pause(), *map(renew, names))
    assert refused.is_set()
    assert seen == renewed == {name: (await facts.read("s", name) or Fact(0, b"")).revision for name in names}


async def test_topology_changes_by_compare_and_set(facts: Facts, other: Facts) -> None:
    """The topology is created once, and replaced only by who knows its epoch; others see it at once."""
    one, two = TopologyStore(facts), TopologyStore(other)
    assert await one.load() is None
    assert await one.epoch() == 0
    first = Topology.initial(3)
    assert await one.create(first) == first
    assert await two.create(Topology.initial(5)) == first
    assert await two.load() == first
    second = first.with_shard_added()
    assert await two.compare_and_set(1, second)
    assert not await one.compare_and_set(1, first.with_shard_added(weight=3))
    assert await one.load() == second
    assert await one.epoch() == 2
    with pytest.raises(ValueError, match="does not follow"):
        await one.compare_and_set(1, first)
