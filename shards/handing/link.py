"""One connection to another worker, and the rows that were handed over on it.

What is handed over goes out at the end of the same turn of the event loop; nothing waits here for an answer. When the
connection ends, or nothing is heard for ``SILENCE_S`` though it was asked for, the rows are of unknown outcome, and go
back to whoever handed them over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

from shards.contract import Observer, Outcome, OutcomeUnknown, Row, StoreError, Unavailable
from shards.handing.frames import (
    FRAME_BYTES_MAX,
    FrameReader,
    Handed,
    Kind,
    Malformed,
    NotTaken,
    frame,
    pack_row,
    unpack_answers,
)
from shards.handing.network import Wire
from shards.judging import Asker

TICK_S: Final = 0.05
"""How often deadlines and silence are looked at, while rows are under way: as often as lanes do."""

SILENCE_S: Final = 0.5
"""A worker whose event loop has not answered a ping for so long is taken for absent until it does. A busy one is late
by tens of milliseconds; to be wrong costs a commit that finds its rows stored."""

ROWS_MAX: Final = 4_096
"""Rows under way on a connection; more are committed by who has them."""

_NEVER_S: Final = float("inf")

_NOTHING_DONE: Final = (NotTaken, Unavailable)
"""Answers after which the row is tried again here: no more than a connection to the store may be missing there."""

_log: Final = logging.getLogger("crest.handing")


class Owner(Protocol):
    """The lanes of a shard, who hand rows over."""

    def answered(self, answers: Sequence[tuple[Given, Outcome]], began_s: float) -> None:
        """Takes what became of rows that were handed over, none of them before ``began_s`` (``time.monotonic``)."""

    def failed(self, given: Given, error: StoreError) -> None:
        """Takes an error that is the end of a row."""

    def back(self, given: Given, *, is_unknown: bool) -> None:
        """Takes a row back, to commit it here; ``is_unknown``: it may be stored, now or later."""


class Given:
    """A row that was handed over, and who asked for it. Its owner is told once what became of it."""

    __slots__ = ("deadline", "given_s", "outcome", "owner", "row")

    def __init__(self, owner: Owner, row: Row, deadline: float, outcome: Asker, given_s: float) -> None:
        self.owner = owner
        self.row = row
        self.deadline = deadline
        self.outcome = outcome  # done early when the caller is cancelled, or too late
        self.given_s = given_s


class Link(asyncio.Protocol):
    """The sending end of one connection. For one event loop."""

    def __init__(self, number: int, observer: Observer, ended: Callable[[Link], None]) -> None:
        """``number``: of the worker at the other end. ``ended`` is told once, when the connection is of no more use."""
        self._number = number
        self._observer = observer
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._wire: Wire | None = None
        self._frames = FrameReader()
        self._given: dict[int, Given] = {}  # in the order in which they were
        self._due_s = _NEVER_S  # no row's deadline is earlier
        self._next = 0
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._send_soon: asyncio.Handle | None = None
        self._is_full = False
        self._is_silent = False
        self._is_leaving = False
        self._asked_s: float | None = None  # since when a ping is unanswered
        self._tick_due_s = 0.0
        self._tick_later: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "silent" if self._is_silent else "leaving" if self._is_leaving else "full" * self._is_full
        return f"Link({self._number}, under_way={len(self._given)}/{ROWS_MAX}, {state or 'well'})"

    @property
    def is_open(self) -> bool:
        """Whether the connection is there."""
        return self._wire is not None

    def hand(self, owner: Owner, shard: int, row: Row, deadline: float, outcome: Asker) -> bool:
        """Hands a row over; False when it is not, and is the caller's to commit. The owner is told of what is."""
        if self._wire is None or self._is_full or self._is_silent or self._is_leaving or len(self._given) >= ROWS_MAX:
            return False
        number = self._next
        record = pack_row(Handed(number, shard, row, deadline))
        if record is None:
            return False
        if self._unsent_bytes + len(record) > FRAME_BYTES_MAX:
            self._send()
        self._next = number + 1
        self._unsent.append(record)
        self._unsent_bytes += len(record)
        if self._send_soon is None:
            self._send_soon = self._loop.call_soon(self._send)
        now_s = time.monotonic()
        self._given[number] = Given(owner, row, deadline, outcome, now_s)
        self._due_s = min(self._due_s, deadline)
        if self._tick_later is None:
            self._tick_in(now_s)
        return True

    def end(self) -> None:
        """Closes the connection; what is still under way goes back. Idempotent."""
        self._lose(is_at_once=True)

    # ---------------------------------------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self._wire = cast("Wire", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  why makes no difference
        """Ends."""
        self._lose(is_at_once=True)

    def pause_writing(self) -> None:
        """Hands nothing over until there is room."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Goes on."""
        self._is_full = False

    def data_received(self, data: bytes) -> None:
        """Takes answers."""
        self._asked_s = None
        self._is_silent = False
        try:
            for kind, body in self._frames.feed(data):
                if kind is Kind.ANSWERS:
                    self._take_answers(body)
                elif kind is Kind.LEAVING:
                    self._is_leaving = True
                elif kind is not Kind.PONG:
                    raise Malformed(f"a frame {kind.name} for who hands over")  # noqa: TRY301  one way out for all
        except Malformed as error:
            _log.error("worker %d: %s", self._number, error)
            self._lose(is_at_once=True)
        if self._is_leaving and not self._given:
            self._lose(is_at_once=False)

    def _take_answers(self, body: bytes) -> None:
        by_owner: dict[Owner, list[tuple[Given, Outcome]]] = {}
        refused = 0
        for number, answer in unpack_answers(body):
            given = self._given.pop(number, None)
            if given is None:  # taken back since, or too late
                continue
            if isinstance(answer, Outcome):
                by_owner.setdefault(given.owner, []).append((given, answer))
            elif isinstance(answer, _NOTHING_DONE):
                refused += 1
                given.owner.back(given, is_unknown=False)
            else:
                given.owner.failed(given, answer)
        if refused:
            self._observer.rows_taken_back("refused", refused)
        for owner, answers in by_owner.items():
            owner.answered(answers, min(given.given_s for given, _ in answers))  # answers come in any order

    # ------------------------------------------------------------------------------------------------------- sending

    def _send(self) -> None:
        """Sends what was handed over in this turn."""
        if self._send_soon is not None:
            self._send_soon.cancel()
            self._send_soon = None
        if self._unsent and self._wire is not None:
            self._observer.rows_handed(len(self._unsent))
            body = b"".join(self._unsent)
            self._unsent.clear()
            self._unsent_bytes = 0
            self._wire.write(frame(Kind.ROWS, body))

    # -------------------------------------------------------------------------------------------------------- waiting

    def _tick_in(self, now_s: float) -> None:
        self._tick_due_s = now_s + TICK_S
        self._tick_later = self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        """Answers rows past their deadline, and asks whether the other worker is alive."""
        self._tick_later = None
        now_s = time.monotonic()
        if now_s >= self._due_s:
            for number in [number for number, given in self._given.items() if given.deadline <= now_s]:
                given = self._given.pop(number)
                given.owner.failed(given, OutcomeUnknown("the committer of the lane did not answer in time"))
            self._due_s = min((given.deadline for given in self._given.values()), default=_NEVER_S)
        if not self._given or self._wire is None:
            return
        if self._asked_s is None:
            self._asked_s = now_s
            self._wire.write(frame(Kind.PING))
        else:
            self._asked_s += max(0.0, now_s - self._tick_due_s - TICK_S)  # for so long this process did not listen
            if now_s - self._asked_s > SILENCE_S:
                _log.warning("worker %d does not answer: its lanes are committed here until it does", self._number)
                self._is_silent = True
                self._give_back("silent")
                return
        self._tick_in(now_s)

    def _give_back(self, reason: str) -> None:
        """Gives every row back, oldest first."""
        back, self._given = self._given, {}
        if back:
            self._observer.rows_taken_back(reason, len(back))
        for given in back.values():
            given.owner.back(given, is_unknown=True)

    def _lose(self, *, is_at_once: bool) -> None:
        wire, self._wire = self._wire, None
        if wire is None:
            return
        if is_at_once:
            wire.abort()
        else:
            wire.close()
        for timer in (self._send_soon, self._tick_later):
            if timer is not None:
                timer.cancel()
        self._send_soon = self._tick_later = None
        self._ended(self)
        self._give_back("closed")
