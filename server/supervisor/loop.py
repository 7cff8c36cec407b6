"""The supervisor's loop: what to do when a signal, a child's word, a death or a moment comes."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from server.config import Config
from server.processes import Control, ExitCode, Launch, State, WorkerStatus
from server.supervisor.child import Child, Phase
from server.supervisor.laggards import Laggards
from server.supervisor.log import LOG, fields
from server.supervisor.slot import Slot

TICK_S: Final = 0.25
"""Longest sleep; what is due is done at most so much late. Bytes and signals wake the loop at once."""

ABORT_LEAD_S: Final = 0.5
"""How long before its time is up a stalled child is aborted, so that it can write its stacks and be gone in time."""

KILL_SLACK_S: Final = 2.0
"""What a drained child may take beyond its wait and grace, to close stores and exit."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

_EXIT_NAMES: Final = {code.value: code.name for code in ExitCode}

_STATES: Final = {Phase.STARTING: State.STARTING, Phase.SERVING: State.SERVING}


class Commands(NamedTuple):
    """How children are started."""

    worker: tuple[str, ...]
    exporter: tuple[str, ...]


class Supervisor:
    """Keeps ``config.workers`` workers and the exporter running until it is told to stop or cannot."""

    def __init__(self, config: Config, commands: Commands, launch: Launch) -> None:
        self._config = config
        self._workers = tuple(
            Slot(f"worker-{n}", commands.worker, replace(launch, number=n)) for n in range(config.workers)
        )
        self._slots = (*self._workers, Slot("exporter", commands.exporter, replace(launch, lock_fd=-1)))
        self._metrics_dir = launch.metrics_dir
        self._selector = selectors.DefaultSelector()
        self._laggards = Laggards(config.workers)
        self._lagging: frozenset[int] = frozenset()
        self._to_roll: list[Slot] = []
        self._open_shared = False
        self._told: Control | None = None
        self._exit_code: ExitCode | None = None
        """Set when stopping has begun."""
        self._turned_s = self._changed_s = time.monotonic()

    def __repr__(self) -> str:
        stage = "stopping" if self._exit_code is not None else "rolling" if self._to_roll else "running"
        return f"Supervisor({stage}, {[child for slot in self._slots for child in slot.children]})"

    def run(self) -> ExitCode:
        """Returns when every child has ended."""
        with self._signals() as signals_fd, self._selector:
            self._selector.register(signals_fd, selectors.EVENT_READ)
            try:
                while self._exit_code is None or any(slot.children for slot in self._slots):
                    self._turn(time.monotonic())
                    self._wait(signals_fd)
            finally:
                self._kill_all(time.monotonic())  # nothing to do, unless the loop itself has failed
        return self._exit_code

    @contextlib.contextmanager
    def _signals(self) -> Iterator[int]:
        """Turns signals into bytes on a descriptor; the handlers themselves do nothing."""
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        handlers = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
        wakeup_fd = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        try:
            yield read_fd
        finally:
            signal.set_wakeup_fd(wakeup_fd)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.close(read_fd)
            os.close(write_fd)

    def _wait(self, signals_fd: int) -> None:
        """Sleeps until something happens or may be due, and takes what has come."""
        events = self._selector.select(TICK_S)
        now_s = time.monotonic()
        for key, _ in events:
            if key.fd != signals_fd:
                slot, child = key.data
                self._hear(slot, child, now_s)
        for key, _ in events:
            if key.fd == signals_fd:
                for number in os.read(signals_fd, 4096):
                    self._on_signal(signal.Signals(number), now_s)

    def _turn(self, now_s: float) -> None:
        """Brings everything to where it should be at this moment."""
        self._forgive_own_delay(now_s)
        for slot in self._slots:
            for child in slot.children:
                if child.exit_status is not None:
                    self._on_exit(slot, child, now_s)
                else:
                    self._judge(child, now_s)
        for slot in self._slots:
            # asked each time: a start that fails may be given up on, and nobody would end what is started after that
            if self._exit_code is None and slot.current is None and now_s >= slot.start_at_s:
                self._start(slot, now_s)
        self._roll(now_s)
        self._compare(now_s)
        self._tell()

    def _forgive_own_delay(self, now_s: float) -> None:
        """When this process did not run for a while, the children's words of that time may not have been read."""
        late_s = now_s - self._turned_s - 2 * TICK_S
        if late_s > 0:
            for slot in self._slots:
                for child in slot.children:
                    child.last_beat_s += late_s
        self._turned_s = now_s

    # ---------------------------------------------------------------------------------------------- children

    def _start(self, slot: Slot, now_s: float) -> None:
        """Fills an empty place, or puts off doing so."""
        slot.current = self._spawn(slot)
        if slot.current is None:
            slot.start_at_s = now_s + slot.back_off.died(was_ready=False, served_s=0.0)
            self._give_up_on(slot, now_s)

    def _spawn(self, slot: Slot) -> Child | None:
        try:
            child = slot.spawn()
        except OSError as error:
            LOG.error("a child cannot be started", extra=fields(child=slot.name, error=str(error)))
            return None
        LOG.info("started a child", extra=fields(child=child.name, pid=child.pid))
        self._selector.register(child.status_fd, selectors.EVENT_READ, (slot, child))
        if self._told is not None:
            child.tell(self._told)
        return child

    def _hear(self, slot: Slot, child: Child, now_s: float) -> None:
        try:
            became_ready = child.read_status(now_s)
        except EOFError:
            self._selector.unregister(child.status_fd)
            return
        if child.stalled is not None and child is slot.current and slot in self._workers:
            self._laggards.heard(self._workers.index(slot), child.stalled, now_s)
        if not became_ready:
            return
        LOG.info("a child is ready", extra=fields(child=child.name, pid=child.pid))
        slot.back_off.ready()
        self._note_change(slot, now_s)
        if child is slot.replacement and slot.current is not None:
            old, slot.current, slot.replacement = slot.current, child, None
            slot.leaving.append(old)
            old.terminate(now_s)

    def _judge(self, child: Child, now_s: float) -> None:
        """Ends a child whose time is up."""
        config = self._config
        in_phase_s = now_s - child.phase_since_s
        silent_s = now_s - child.last_beat_s
        match child.phase:
            case Phase.STARTING if in_phase_s >= config.boot_timeout_s:
                child.abort(now_s, f"not ready within {config.boot_timeout_s:g} s")
            case Phase.DRAINING if in_phase_s >= config.drain_wait_s + config.drain_grace_s + KILL_SLACK_S:
                LOG.error("killing a child that does not end", extra=fields(child=child.name, pid=child.pid))
                child.kill(now_s)
            case Phase.SERVING | Phase.DRAINING if (
                child.was_ready and silent_s >= config.stall_timeout_s - ABORT_LEAD_S
            ):
                child.abort(now_s, f"its event loop has not answered for {silent_s:.1f} s")
            case Phase.ABORTING if in_phase_s >= ABORT_LEAD_S:
                child.kill(now_s)
            case _:
                pass

    def _on_exit(self, slot: Slot, child: Child, now_s: float) -> None:
        """Takes a dead child from its place, and decides what its death means."""
        status = child.exit_status or 0
        with contextlib.suppress(KeyError):  # unregistered already when its end of the pipe was seen
            self._selector.unregister(child.status_fd)
        child.close()
        self._drop_gauges(child.metrics_id)
        self._note_change(slot, now_s)
        asked = child.phase is Phase.DRAINING or self._exit_code is not None
        as_asked = asked and status == ExitCode.STOPPED
        line = fields(child=child.name, pid=child.pid, ended=_ended(status))
        LOG.log(logging.INFO if as_asked else logging.ERROR, "a child has ended", extra=line)
        if child in slot.leaving:
            slot.leaving.remove(child)
        elif child is slot.replacement:
            slot.replacement = None
            if self._exit_code is None:
                self._abandon_roll()
        else:
            # a roll may have a replacement on its way: it takes the place as it is
            slot.current, slot.replacement = slot.replacement, None
            if self._exit_code is None:
                self._put_off_start(slot, child, now_s)
        cut = child.was_ready and status != ExitCode.STOPPED and slot in self._workers
        if cut and self._exit_code is ExitCode.STOPPED:
            self._exit_code = ExitCode.CUT

    def _put_off_start(self, slot: Slot, dead: Child, now_s: float) -> None:
        slot.restarts += 1
        served_s = now_s - dead.phase_since_s if dead.phase is Phase.SERVING else 0.0
        slot.start_at_s = now_s + slot.back_off.died(was_ready=dead.was_ready, served_s=served_s)
        self._give_up_on(slot, now_s)

    def _give_up_on(self, slot: Slot, now_s: float) -> None:
        """Stops the server when a worker cannot be started; without the exporter it can live."""
        failures = slot.back_off.boot_failures
        if slot in self._workers and failures >= self._config.boot_failures_max:
            LOG.error("giving up: a worker does not start", extra=fields(child=slot.name, tries=failures))
            self._stop(ExitCode.BOOT_FAILED, now_s)

    def _drop_gauges(self, metrics_id: str) -> None:
        """Removes what a dead worker measured of itself; its counters stay, and its successor goes on counting."""
        if metrics_id:
            for path in self._metrics_dir.glob(f"gauge_*_{metrics_id}.db"):
                path.unlink(missing_ok=True)

    # ------------------------------------------------------------------------------------- rolling and stopping

    def _note_change(self, slot: Slot, now_s: float) -> None:
        """Some child of a worker's place has become ready or has ended."""
        if slot in self._workers:
            self._changed_s = now_s
            self._laggards.forget(self._workers.index(slot))

    def _roll(self, now_s: float) -> None:
        """Goes on with a rolling restart: one slot at a time, with all workers serving and nobody on the way.

        A caller whose connection was refused between two workers at a port tries it again after a second and a fifth
        (gRPC, "Connection Backoff"): before it is back it must not lose another worker.
        """
        if not self._to_roll or any(slot.replacement or slot.leaving for slot in self._slots):
            return
        if not all(map(_serves, self._workers)):
            return
        if self._to_roll[0] in self._workers and now_s - self._changed_s < self._config.roll_settle_s:
            return
        slot = self._to_roll.pop(0)
        if slot.current is not None:
            slot.replacement = self._spawn(slot)
            if slot.replacement is None:
                self._abandon_roll()

    def _abandon_roll(self) -> None:
        self._to_roll.clear()
        LOG.error("rolling restart abandoned: a replacement did not start; the others serve on")

    def _on_signal(self, number: signal.Signals, now_s: float) -> None:
        if number is signal.SIGHUP and self._exit_code is None:
            LOG.info("rolling restart")
            self._to_roll = list(self._slots)
        elif number in (signal.SIGTERM, signal.SIGINT):
            if self._exit_code is None:
                LOG.info("draining; a second signal stops at once", extra=fields(signal=number.name))
                self._stop(ExitCode.STOPPED, now_s)
            else:
                LOG.warning("stopping at once", extra=fields(signal=number.name))
                if self._exit_code is ExitCode.STOPPED:
                    self._exit_code = ExitCode.CUT
                self._kill_all(now_s)

    def _stop(self, exit_code: ExitCode, now_s: float) -> None:
        self._exit_code = exit_code
        self._to_roll.clear()
        for slot in self._slots:
            for child in slot.children:
                if child.phase in (Phase.STARTING, Phase.SERVING):
                    child.terminate(now_s)

    def _kill_all(self, now_s: float) -> None:
        for slot in self._slots:
            for child in slot.children:
                child.kill(now_s)

    # ------------------------------------------------------------------------------------------------ telling

    def _compare(self, now_s: float) -> None:
        """Finds out who lags, and says so when that has changed."""
        serving = {n for n, slot in enumerate(self._workers) if _serves(slot)}
        lagging = self._laggards.look(serving, now_s)
        for number in lagging - self._lagging:
            LOG.warning("a worker lags far behind the others", extra=fields(child=self._workers[number].name))
        for number in (self._lagging - lagging) & serving:
            LOG.info("a worker keeps up with the others again", extra=fields(child=self._workers[number].name))
        self._lagging = lagging

    def _tell(self) -> None:
        """Tells every child how the workers are, when that has changed."""
        self._open_shared = self._open_shared or all(map(_serves, self._workers))
        control = Control(
            tuple(
                WorkerStatus(n, self._config.address(n), _state(slot), slot.restarts, n in self._lagging)
                for n, slot in enumerate(self._workers)
            ),
            self._open_shared,
        )
        changed, self._told = control != self._told, control
        for slot in self._slots:
            for child in slot.children:
                if changed:
                    child.tell(control)
                else:
                    child.flush()


def _serves(slot: Slot) -> bool:
    return slot.current is not None and slot.current.phase is Phase.SERVING


def _state(slot: Slot) -> State:
    """Returns what callers at this number meet; while it is empty, one is starting."""
    if slot.current is None:
        return State.STARTING
    return _STATES.get(slot.current.phase, State.DRAINING)


def _ended(status: int) -> str:
    """Returns an exit status in words."""
    if status < 0:
        return signal.Signals(-status).name
    return _EXIT_NAMES.get(status, f"exit code {status}")
