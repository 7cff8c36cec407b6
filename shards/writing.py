"""Rows on their way through the places of their slots: those of one call together, each with its own outcome.

A row is told what became of it the moment that is known, and its place is done with then; who asked waits once. So a
row of a call that writes hundreds costs no task and no future of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from shards.contract import APPLIED, MARK_BYTES, Observer, Outcome, Row, StoreError, Unavailable, Verdict
from shards.deadlines import Deadlines
from shards.judging import NOTHING_WRITTEN, in_doubt
from shards.keys import key_of, slot_of
from shards.places import RUNS_MAX, Place, Places, Shard

_BOOTTIME: Final = time.CLOCK_BOOTTIME

Found: TypeAlias = Outcome | Exception
"""APPLIED, CLASH or SEALED, or why that is not known: a ``StoreError``; any other exception is a defect."""


class Write(NamedTuple):
    """What is to be stored: version ``len(marks) / MARK_BYTES`` of an order."""

    order_id: bytes
    customer: str
    marks: bytes
    body: bytes


class Writer:
    """Writes rows wherever their slots are served from. For one event loop."""

    def __init__(self, places: Places, observer: Observer) -> None:
        self._places = places
        self._slots = places.slots
        self._observer = observer
        self._deadlines = Deadlines()

    def __repr__(self) -> str:
        return f"Writer({self._places!r})"

    async def write(self, write: Write, deadline: float) -> Outcome:
        """See ``shards.routing.Router.write``. As ``write_many``, without what one row by itself needs nothing of."""
        began_s = time.clock_gettime(_BOOTTIME)
        place, row, is_open = self._look(write, began_s)
        if not is_open:
            return await self._run(row, deadline, began_s)
        assert place.shard is not None
        place.under_way += 1
        place.writing += 1
        try:
            outcome = await place.shard.lanes.write(row, deadline)
        except StoreError as error:
            longer = self.failed(row, place, error, deadline)
            if longer is None:
                raise
        except BaseException:
            place.end_write(is_settled=False)
            raise
        else:
            place.end_write(is_settled=True)
            now_s = time.clock_gettime(_BOOTTIME)
            if self.may_tell(row, place, now_s):
                place.hold.took(now_s - began_s)
                return outcome
            longer = self.answered(row, place, outcome, deadline)
        return await longer

    async def write_many(self, writes: Sequence[Write], deadline: float) -> Sequence[Found]:
        """See ``shards.routing.Router.write_many``."""
        began_s = time.clock_gettime(_BOOTTIME)
        together = _Together(self, len(writes), deadline, began_s)
        for number, write in enumerate(writes):
            place, row, is_open = self._look(write, began_s)
            if not is_open:
                together.go_on(number, self._run(row, deadline, began_s))
                continue
            assert place.shard is not None
            begun = together.begun(number, row, place)
            try:
                place.shard.lanes.put(row, deadline, begun)
            except StoreError as error:
                begun.set_exception(error)
        return await together.found()

    def _look(self, write: Write, now_s: float) -> tuple[Place, Row, bool]:
        """Returns the place of a row, the row there, and whether it may be written without waiting for anything."""
        order_id, customer, marks, body = write
        place = self._slots[slot_of(order_id)]
        shard = place.shard
        is_open = (
            shard is not None
            and not place.is_paused
            and place.hold.until_s > now_s
            and not (len(marks) == MARK_BYTES and shard.seals.is_due(order_id))
        )
        return place, Row(key_of(order_id, place.gen), customer, marks, body), is_open

    def may_tell(self, row: Row, place: Place, now_s: float) -> bool:
        """Tells whether what a place says of a row may be told at once (``now_s``: of ``CLOCK_BOOTTIME``)."""
        return self._slots[row.key.slot] is place and place.hold.until_s > now_s

    async def answered(self, row: Row, place: Place, outcome: Outcome, deadline: float) -> Outcome:
        """Goes on with a row of which its place, where its write has ended, has said what may not be told at once."""
        is_unknown = outcome.verdict is Verdict.APPLIED
        if await self._places.is_still(place, row.key.slot, deadline, is_unknown=is_unknown):
            return outcome
        return await self._run(row, deadline, is_unknown=is_unknown)

    def failed(self, row: Row, place: Place, error: StoreError, deadline: float) -> Coroutine[Any, Any, Outcome] | None:
        """Ends the write of a row that failed at a place; returns what goes on with it, None when that is final."""
        place.hold.failed()
        is_settled = isinstance(error, NOTHING_WRITTEN)
        place.end_write(is_settled=is_settled)
        if self._slots[row.key.slot] is place:
            return None
        return self._run(row, deadline, is_unknown=not is_settled)

    async def _run(
        self, row: Row, deadline: float, began_s: float | None = None, *, is_unknown: bool = False
    ) -> Outcome:
        """Writes a row that may have to wait before that, or whose slot moved, or was paused, while it was written.

        ``began_s``: when the operation began (``CLOCK_BOOTTIME``), of a first run. ``is_unknown``: it may be stored.
        """
        slot = row.key.slot
        for _ in range(RUNS_MAX):
            if began_s is None:
                self._observer.reran("write")
            try:
                place, shard = await self._places.served(slot, deadline)
            except StoreError as error:
                raise in_doubt(error) if is_unknown else error from None
            row = row._replace(key=row.key._replace(gen=place.gen))
            place.under_way += 1
            place.writing += 1
            is_settled = False
            try:
                outcome = await self._put(shard, row, deadline)
                is_settled = True
            except StoreError as error:
                if began_s is not None:
                    place.hold.failed()
                is_settled = isinstance(error, NOTHING_WRITTEN)
                if self._slots[slot] is place or time.monotonic() >= deadline:
                    raise in_doubt(error) if is_unknown else error from None
                is_unknown |= not is_settled
            else:
                is_applied = outcome.verdict is Verdict.APPLIED
                now_s = time.clock_gettime(_BOOTTIME)
                if began_s is not None and self.may_tell(row, place, now_s):
                    place.hold.took(now_s - began_s)
                if await self._places.is_still(place, slot, deadline, is_unknown=is_unknown or is_applied):
                    # what is there to the byte is what an earlier run has stored
                    return APPLIED if is_unknown and outcome.present == row else outcome
                is_unknown |= is_applied
            finally:
                place.end_write(is_settled=is_settled)
            began_s = None
        moved = Unavailable(f"the order's slot moved {RUNS_MAX} times meanwhile")
        raise in_doubt(moved) if is_unknown else moved

    async def _put(self, shard: Shard, row: Row, deadline: float) -> Outcome:
        """Writes one row to a shard, after its seal if that is due."""
        if row.version == 1 and shard.seals.is_due(row.key.order_id):
            await self._deadlines.answer_by(deadline, shard.seals.ensure(row.key))
        return await shard.lanes.write(row, deadline)


class _Together:
    """The rows of one call, each under a number from 0."""

    def __init__(self, writer: Writer, count: int, deadline: float, began_s: float) -> None:
        self._writer = writer
        self._deadline = deadline
        self._began_s = began_s
        self._left = count
        self._found: list[Found | _Begun | None] = [None] * count
        """Of a row that is in a lane who asks; so nothing that is done with holds on to what it was part of."""
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self._all: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begun(self, number: int, row: Row, place: Place) -> _Begun:
        """Returns who asks a lane for a row, which is under way at its place from now on."""
        begun = _Begun(self, number, row, place)
        self._found[number] = begun
        place.under_way += 1
        place.writing += 1
        return begun

    def go_on(self, number: int, work: Coroutine[Any, Any, Outcome]) -> None:
        """Takes what comes of a row from what takes longer."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(self._went_on, number))

    async def found(self) -> Sequence[Found]:
        """Returns what became of each row when that is known of all.

        Who is cancelled leaves them: those that wait in a lane are dropped, the others happen or do not.
        """
        if self._left:
            try:
                await self._all
            except asyncio.CancelledError:
                await self._leave()
                raise
        return self._found  # type: ignore[return-value]  # none is left to be found

    def answered(self, begun: _Begun, outcome: Outcome) -> None:
        """Takes what a lane says of a row."""
        row, place = begun.row, begun.place
        # here, and not in what goes on with it: that may be cancelled before it begins
        place.end_write(is_settled=True)
        now_s = time.clock_gettime(_BOOTTIME)
        if self._writer.may_tell(row, place, now_s):
            place.hold.took(now_s - self._began_s)
            self._tell(begun.number, outcome)
        else:
            self.go_on(begun.number, self._writer.answered(row, place, outcome, self._deadline))

    def failed(self, begun: _Begun, error: StoreError) -> None:
        """Takes why a lane does not know of a row."""
        longer = self._writer.failed(begun.row, begun.place, error, self._deadline)
        if longer is None:
            self._tell(begun.number, error)
        else:
            self.go_on(begun.number, longer)

    def _tell(self, number: int, found: Found) -> None:
        self._found[number] = found
        self._left -= 1
        if not self._left and not self._all.done():
            self._all.set_result(None)

    def _went_on(self, number: int, task: asyncio.Task[Outcome]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():  # else nobody waits any more
            error = task.exception()
            assert error is None or isinstance(error, Exception), "what is not ends the loop"
            self._tell(number, task.result() if error is None else error)

    async def _leave(self) -> None:
        for number, begun in enumerate(self._found):
            if isinstance(begun, _Begun) and not begun.done():
                begun.leave()
                self._found[number] = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Begun:
    """A row in a lane: obeys ``shards.judging.Asker``."""

    __slots__ = ("_is_done", "_together", "number", "place", "row")

    def __init__(self, together: _Together, number: int, row: Row, place: Place) -> None:
        self._together = together
        self.number = number
        self.row = row
        self.place = place
        self._is_done = False

    def done(self) -> bool:
        """Whether the lane has answered, or nobody waits any more."""
        return self._is_done

    def set_result(self, outcome: Outcome, /) -> None:
        """The lane has answered."""
        self._is_done = True
        self._together.answered(self, outcome)

    def set_exception(self, error: StoreError, /) -> None:
        """The lane does not know."""
        self._is_done = True
        self._together.failed(self, error)

    def leave(self) -> None:
        """Nobody waits any more; what is under way may yet be stored."""
        self._is_done = True
        self.place.end_write(is_settled=False)
