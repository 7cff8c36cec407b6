"""Gathering calls into flights, with flights that a test lands."""

import asyncio

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from clients import DeadlineExceeded, OrderError, Overloaded
from clients.gathering import _LOOK_S, Gatherer, Limits, Waiting
from tests.simulation import virtual_time
from tests.support.waiting import until

Call = Waiting[str, str]


class Airport:
    """Flights that stay under way until they are landed."""

    def __init__(self, **limits: float) -> None:
        self.groups: list[list[str]] = []
        self.aboard: list[list[Call]] = []
        self.cancelled = 0
        self._landed: list[asyncio.Event] = []
        self.gatherer: Gatherer[str, str] = Gatherer(self._fly, Limits(**limits))  # type: ignore[arg-type]  # of ints

    async def _fly(self, group: list[Call]) -> None:
        landed = asyncio.Event()
        self.groups.append([call.request for call in group])
        self.aboard.append(group)
        self._landed.append(landed)
        try:
            await landed.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        for call in group:
            if not call.answer.done():
                call.answer.set_result(call.request.upper())

    def ask(self, *names: str, size: int = 1, timeout_s: float = 30.0, kin: int = 0) -> list[asyncio.Task[str]]:
        """Asks so many calls in one turn of the loop."""
        return [asyncio.create_task(self.gatherer.ask(name, size, timeout_s, kin)) for name in names]

    def land(self, flight: int) -> None:
        """Lets a flight end."""
        self._landed[flight].set()


async def turns(count: int = 10) -> None:
    """Lets the loop do whatever it can do without waiting, or so many turns of it."""
    for _ in range(count):
        await asyncio.sleep(0)  # sleep: gives way, waits for nothing


async def test_a_lone_call_leaves_at_once_and_alone() -> None:
    """A call that finds a free flight does not wait for others, and leaves no timer behind."""
    airport = Airport()
    (call,) = airport.ask("a")
    await turns()
    assert airport.groups == [["a"]]
    airport.land(0)
    assert await call == "A"
    assert airport.gatherer._expiry is None


async def test_kin_fly_together() -> None:
    """What is committed together leaves together, the kin with no flight first; short lines share one."""
    airport = Airport(flights_max=4, spread_min=2)
    first = airport.ask("h0", "i0", "j0", "k0", "l0", "m0", "n0")
    await turns()
    others = [airport.ask(name, kin=int(name[1]))[0] for name in ("b0", "c0", "d1", "e2", "f1", "g3")]
    await turns()
    airport.land(3)
    await turns()
    assert airport.groups[4:] == [["d1", "f1"]]
    airport.land(2)
    await turns()
    assert airport.groups[5:] == [["e2", "g3", "b0", "c0"]]
    for flight in (0, 1, 4, 5):
        airport.land(flight)
    assert len(await asyncio.gather(*first, *others)) == 13


async def test_more_kins_than_flights_fly_mixed() -> None:
    """With fewer flights than kins each takes all sorts, or most kins would wait while some fly."""
    airport = Airport(flights_max=2, spread_min=1)
    calls = [airport.ask(name, kin=int(name[1]))[0] for name in ("a0", "b1", "c2", "d0", "e1", "f2")]
    await turns()
    assert sorted(map(len, airport.groups)) == [3, 3]
    airport.land(0)
    airport.land(1)
    await asyncio.gather(*calls)


async def test_no_kin_waits_for_ever() -> None:
    """While some kin fly, those of another one, or those who have waited longest, are next."""
    airport = Airport(flights_max=2, spread_min=1)
    calls = [airport.ask("a0", kin=0)[0], airport.ask("b1", kin=1)[0]]
    await turns()
    assert airport.groups == [["a0"], ["b1"]]
    calls += [airport.ask(name, kin=int(name[1]))[0] for name in ("c0", "d0", "e1")]
    airport.land(1)
    await turns()
    assert airport.groups[2:] == [["e1"]]
    airport.land(2)
    await turns()
    assert airport.groups[3:] == [["c0", "d0"]]
    airport.land(0)
    airport.land(3)
    await asyncio.gather(*calls)


async def test_what_comes_while_all_are_under_way_leaves_together_with_the_next() -> None:
    """With every flight under way calls gather, and the first that lands takes all of them, each with its answer."""
    airport = Airport(flights_max=2)
    first = airport.ask("a")
    await turns()
    second = airport.ask("b")
    await turns()
    gathered = airport.ask("c", "d", "e")
    await turns()
    assert airport.groups == [["a"], ["b"]]
    airport.land(1)
    await turns()
    assert airport.groups[2:] == [["c", "d", "e"]]
    airport.land(0)
    airport.land(2)
    assert await asyncio.gather(*first, *second, *gathered) == ["A", "B", "C", "D", "E"]


@given(
    st.lists(st.integers(1, 120), min_size=1, max_size=60),
    st.integers(1, 20),
    st.integers(1, 200),
    st.integers(1, 5),
    st.integers(1, 30),
)
def test_flights_keep_their_bounds(sizes: list[int], items: int, size_max: int, flights: int, spread: int) -> None:
    """No flight passes its items or its bytes (unless one call does alone), nobody is lost, and order is kept."""

    async def run() -> None:
        airport = Airport(items_max=items, bytes_max=size_max, flights_max=flights, spread_min=spread)
        calls = [airport.ask(f"{i}:{size}", size=size)[0] for i, size in enumerate(sizes)]
        landed = 0
        while not all(call.done() for call in calls):
            await turns()
            assert len(airport.groups) - landed <= flights
            if landed < len(airport.groups):
                airport.land(landed)
                landed += 1
        for group in airport.groups:
            assert 1 <= len(group) <= items
            assert len(group) == 1 or sum(int(name.partition(":")[2]) for name in group) <= size_max
        assert [int(name.partition(":")[0]) for group in airport.groups for name in group] == list(range(len(sizes)))

    virtual_time.run(run())  # in which no flight is late, however slow the machine


async def test_a_cancelled_call_leaves_the_others_alone() -> None:
    """Cancelling one call of a flight neither ends the flight nor touches the answers of the others."""
    airport = Airport()
    a, b = airport.ask("a", "b")
    await turns()
    a.cancel()
    await turns()
    assert a.cancelled()
    assert not airport.cancelled
    airport.land(0)
    assert await b == "B"


async def test_a_flight_that_nobody_waits_for_is_cancelled() -> None:
    """When the last call of a flight is cancelled, so is the flight."""
    airport = Airport()
    calls = airport.ask("a", "b")
    await turns()
    for call in calls:
        call.cancel()
    await turns()
    assert airport.cancelled == 1


async def test_a_flight_given_up_before_it_began_is_over() -> None:
    """A call whose time is up in the very turn in which its flight leaves does not take the flight along for ever."""
    airport = Airport(flights_max=1, late_max=0)
    (hasty,) = airport.ask("hasty", timeout_s=0.0)
    with pytest.raises(DeadlineExceeded):
        await hasty
    await turns()
    assert airport.groups == []
    assert (airport.gatherer._under_way, airport.gatherer._flights) == (0, set())
    (patient,) = airport.ask("patient")
    await turns()
    assert airport.groups == [["patient"]]
    airport.land(0)
    assert await patient == "PATIENT"


async def test_a_call_leaves_its_flight_once() -> None:
    """A call that is cancelled in the very turn in which its time is up does not take others off the flight."""
    airport = Airport(flights_max=1)
    airport.ask("first")
    await turns()
    hasty, patient = airport.ask("hasty", "patient")
    airport.land(0)
    await turns()
    airport.gatherer._expire(airport.aboard[1][0])
    hasty.cancel()
    await turns()
    assert (hasty.cancelled(), airport.cancelled) == (True, 0)
    airport.land(1)
    assert await patient == "PATIENT"


async def test_a_call_given_up_while_it_waits_is_never_sent() -> None:
    """What was cancelled before it left does not leave."""
    airport = Airport(flights_max=1)
    (first,) = airport.ask("a")
    await turns()
    b, c = airport.ask("b", "c")
    await turns()
    b.cancel()
    await turns()
    airport.land(0)
    await turns()
    airport.land(1)
    assert [await first, await c] == ["A", "C"]
    assert airport.groups == [["a"], ["c"]]


async def test_each_call_has_its_own_deadline() -> None:
    """A call with little time gets its error in time, aboard or waiting, and the rest of its flight goes on."""
    airport = Airport(flights_max=1)
    (hasty,), (patient,) = airport.ask("a", timeout_s=0.01), airport.ask("b")
    await turns()
    (waiting,) = airport.ask("c", timeout_s=0.01)
    for call in (hasty, waiting):
        with pytest.raises(DeadlineExceeded):
            await call
    airport.land(0)
    assert await patient == "B"
    assert airport.groups == [["a", "b"]]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_many_deadlines_are_kept_by_one_timer(timeouts_s: list[int]) -> None:
    """Whatever the order in which they are due, each call hears of it then, or a moment later; no timer is left."""

    async def run() -> None:
        airport = Airport(flights_max=1)
        loop = asyncio.get_running_loop()
        began_s = loop.time()

        async def one(timeout_s: int) -> None:
            with pytest.raises(DeadlineExceeded):
                await airport.gatherer.ask("a", 1, timeout_s)
            assert timeout_s <= loop.time() - began_s <= timeout_s + _LOOK_S

        await asyncio.gather(*(one(timeout_s) for timeout_s in timeouts_s))
        assert airport.gatherer._expiry is None

    virtual_time.run(run())


def test_deadlines_are_kept_on_uvloop() -> None:
    """Times that are up at once are told there as well, where what is due at once is no timer."""

    async def run() -> None:
        airport = Airport()
        with pytest.raises(DeadlineExceeded):
            await asyncio.gather(*airport.ask("a", "b", timeout_s=0.0))
        await turns()
        assert airport.gatherer._expiry is None
        (call,) = airport.ask("c")
        await turns()
        assert airport.groups[-1] == ["c"]
        airport.land(-1)
        assert await call == "C"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


async def test_a_late_flight_does_not_hold_up_those_who_gather() -> None:
    """When a flight takes far longer than usual the next one leaves without it, as often as the limit allows."""
    airport = Airport(flights_max=1, items_max=1, late_max=2, late_s_min=0.001, late_s_max=0.001)
    calls = airport.ask("a", "b", "c", "d")

    async def flown() -> int:
        return len(airport.groups)

    await until(flown, lambda count: count == 3)
    for _ in range(1000):
        await asyncio.sleep(0)  # sleep: gives way, to what must not happen
    assert airport.groups == [["a"], ["b"], ["c"]]
    airport.land(0)
    assert await calls[0] == "A"
    await turns()
    assert airport.groups == [["a"], ["b"], ["c"]]  # two are late, and the third is under way
    airport.land(2)
    assert await calls[2] == "C"
    await turns()
    assert airport.groups[3:] == [["d"]]
    for call in calls:
        call.cancel()


async def test_waiting_is_bounded() -> None:
    """Beyond the limit a call is refused at once, as retryable."""
    airport = Airport(flights_max=1, waiting_max=2)
    calls = airport.ask("a")
    await turns()
    calls += airport.ask("b", "c")
    await turns()
    (refused,) = airport.ask("d")
    with pytest.raises(Overloaded) as refusal:
        await refused
    assert refusal.value.retryable
    for call in calls:
        call.cancel()


async def test_a_defect_reaches_everyone_aboard() -> None:
    """An exception that is no error of the service does not leave anyone waiting."""

    async def fly(_: list[Call]) -> None:
        raise ZeroDivisionError

    gatherer: Gatherer[str, str] = Gatherer(fly, Limits())
    calls = [asyncio.create_task(gatherer.ask(name, 1, 30.0)) for name in "ab"]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError, ZeroDivisionError]
    assert not isinstance(outcomes[0], OrderError)


async def test_closing_cancels_everyone() -> None:
    """Those aboard and those who wait are cancelled, and no flight is left."""
    airport = Airport(flights_max=1)
    calls = airport.ask("a")
    await turns()
    calls += airport.ask("b")
    await turns()
    await airport.gatherer.close()
    await asyncio.wait(calls)
    assert all(call.cancelled() for call in calls)
    assert airport.cancelled == 1


async def test_closing_cancels_a_flight_that_has_not_begun() -> None:
    """Those whose flight is closed in the turn in which it leaves are cancelled like those under way."""
    airport = Airport()
    (call,) = airport.ask("a")
    await turns(2)  # in the first it asks, and in the second its flight leaves
    assert (len(airport.gatherer._flights), airport.groups) == (1, [])
    await airport.gatherer.close()
    await turns()
    assert call.cancelled()
    assert (airport.gatherer._flights, airport.groups) == (set(), [])
