"""A mover in the foreground, and the live view of one that works elsewhere."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from rich.live import Live

from shards.contract import StoreError
from shards.rebalance import commands
from shards.rebalance.cli import forms, show
from shards.rebalance.cli.exits import ExitCode
from shards.rebalance.cli.session import Session
from shards.rebalance.commands import Situation
from shards.rebalance.fleet import Fleet
from shards.rebalance.mover import Mover
from shards.rebalance.progress import Progress
from shards.rebalance.record import RebalanceRecord, State

_REFRESH_S: Final = 0.5
_LINE_S: Final = 5.0
"""Where the output is no terminal: a line so often."""

_MESSAGES_MAX: Final = 2


class _Messages(logging.Handler):
    """Keeps the last things that a mover said."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last: deque[str] = deque(maxlen=_MESSAGES_MAX)

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.last:
            self.last.append(message)


async def work(session: Session, fleet: Fleet, *, stays: bool = False) -> ExitCode:
    """Runs a mover until the rebalance is over; Ctrl-C lets it finish the slots under way and leave.

    So does whatever takes the view away: a terminal that is closed, a reader who has seen enough.
    """
    told: list[Progress] = []

    def tell(progress: Progress) -> None:
        told[:] = [progress]
        if session.as_json:
            try:
                session.print("", forms.progress(progress))
            except OSError:  # nobody reads any more: what is printed at the end says so
                mover.stop()

    mover = Mover(fleet, tell=tell)
    messages = _Messages()
    logging.getLogger("crest.rebalance").addHandler(messages)
    try:
        with _heard(mover):
            running = asyncio.ensure_future(mover.run(stays=stays))
            try:
                await _follow(session, fleet, running, messages, told)
            finally:  # whatever became of the view, no slot is left paused
                mover.stop()
                await asyncio.wait((running,))
    finally:
        logging.getLogger("crest.rebalance").removeHandler(messages)
    return await _ended(session, fleet, running.result(), stays=stays)


@contextmanager
def _heard(mover: Mover) -> Iterator[None]:
    """Lets the signals that ask a process to leave stop the mover; one that ``nohup`` keeps hears of no terminal."""
    is_kept = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    numbers = (signal.SIGINT, signal.SIGTERM) if is_kept else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.add_signal_handler(number, mover.stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def watch(session: Session, fleet: Fleet) -> None:
    """Shows how things stand until the rebalance is over."""

    async def until_over() -> None:
        while True:
            situation = await commands.look(fleet)
            if session.as_json:
                session.print("", forms.situation(situation))
            if situation.record is None or not situation.record.is_open:
                return
            await asyncio.sleep(_REFRESH_S)  # sleep: the interval of looking

    over = asyncio.ensure_future(until_over())
    await _follow(session, fleet, over, _Messages(), [])
    over.result()  # raises what kept it from looking


async def _follow(
    session: Session,
    fleet: Fleet,
    running: asyncio.Future[RebalanceRecord | None] | asyncio.Future[None],
    messages: _Messages,
    told: list[Progress],
) -> None:
    """Shows how things stand until ``running`` is done, and then once more."""
    if session.as_json:
        await asyncio.wait((running,))
        return
    if session.out.is_terminal:
        with Live(console=session.out, auto_refresh=False, transient=False) as live:
            await _refresh(
                fleet, running, told, _REFRESH_S, lambda s: live.update(show.situation(s, messages.last), refresh=True)
            )
        return
    last = ""

    def print_new(situation: Situation) -> None:
        nonlocal last
        line = show.line(situation)
        if line != last:
            session.out.print(line)
        last = line

    await _refresh(fleet, running, told, _LINE_S, print_new)


async def _refresh(
    fleet: Fleet,
    running: asyncio.Future[RebalanceRecord | None] | asyncio.Future[None],
    told: list[Progress],
    interval_s: float,
    update: Callable[[Situation], None],
) -> None:
    is_last = False
    while True:
        with suppress(StoreError):
            situation = await commands.look(fleet)
            record = situation.record
            if told and record is not None and told[0].id == record.id:
                situation = Situation(situation.topology, record, told[0], situation.mover)
            update(situation)
        if is_last:
            return
        await asyncio.wait((running,), timeout=interval_s)
        is_last = running.done()


async def _ended(session: Session, fleet: Fleet, record: RebalanceRecord | None, *, stays: bool) -> ExitCode:
    if record is None:
        return session.failed(ExitCode.REFUSED, "there is no rebalance to work at; `start` begins one")
    if session.as_json:
        session.print("", forms.situation(await commands.look(fleet)))
    if record.is_open and record.state is not State.PAUSED and not stays:
        if not session.as_json:
            session.out.print(f"The mover has left. Nothing is lost: `{show.COMMAND} run` goes on.")
        return ExitCode.UNFINISHED
    if not record.stuck_count:
        return ExitCode.OK
    if not session.as_json:
        if not session.out.is_terminal:  # there the last view has them
            for text in show.stuck(record):
                session.out.print(f"stuck: {text}", soft_wrap=True)
        session.out.print(f"Slots that are stuck serve where they were; `{show.COMMAND} resume` tries them again.")
    return ExitCode.UNFINISHED
