"""What a watcher is shown of the states that reach it."""

import asyncio

from server.app.watching import States
from server.domain.errors import OrderError, Reason
from server.domain.order import Draft, Line, Order, create, transition
from server.domain.states import Verb

DRAFT = Draft("zoë", "EUR", (Line("tea", 1, 1250),), ())
FIRST = create(DRAFT, bytes(16), 1)
SECOND = transition(FIRST, Verb.CONFIRM_PAYMENT, "", None, 2)
THIRD = transition(SECOND, Verb.SHIP, "", None, 3)


async def shown(states: States, version: int) -> Order | OrderError | None:
    """Returns what a watcher who knows a version is shown at once, None when it has to wait."""
    waiting = asyncio.ensure_future(states.after(version))
    for _ in range(5):
        await asyncio.sleep(0)
    if waiting.done():
        return waiting.result()
    waiting.cancel()
    return None


async def test_a_watch_never_goes_back() -> None:
    """A state that was read before a later one was shown, and arrives after it, is dropped."""
    states = States()
    states.offer(THIRD)
    states.offer(SECOND)
    assert await shown(states, 1) == THIRD
    states.offer(FIRST)
    assert await shown(states, 3) is None


async def test_what_is_known_is_not_shown_again() -> None:
    """A watcher waits while what arrives is no later than what it knows, and is shown the next state then."""
    states = States()
    for known in (FIRST, SECOND):
        states.offer(known)
        assert await shown(states, 2) is None
    states.offer(THIRD)
    assert await shown(states, 2) == THIRD


async def test_an_error_reaches_who_waits() -> None:
    """A failure is shown whatever is known, and states after it are shown again."""
    states = States()
    failure = OrderError(Reason.STORE_UNAVAILABLE, "gone")
    states.offer(SECOND)
    states.offer(failure)
    assert await shown(states, 2) is failure
    states.offer(THIRD)
    assert await shown(states, 2) == THIRD
