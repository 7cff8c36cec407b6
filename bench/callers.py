"""`python -m bench.callers`: one caller process on our client library, or on plain stubs, for ``bench.driver``.

``client``: so many tasks, each creating one order after the other through one ``OrderClient``.
``channel``: calls at a fixed rate over one channel of plain stubs, balanced by the policy named.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, NamedTuple

import grpc
import typer
import uvloop
from grpc_channelz.v1 import channelz_pb2
from grpc_channelz.v1.channelz import ChannelzServicer

from bench import load
from bench.summary import percentile
from clients.client import OrderClient
from clients.errors import OrderError
from clients.orders import OrderLine

_DEADLINE_S: Final = 20.0
_CONTENTS: Final = 1_000
_IN_FLIGHT_MAX: Final = 4_096

app = typer.Typer(add_completion=False, help=__doc__)


class Tally:
    """What the calls of one run came to."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self._latencies_s: list[float] = []
        self._codes: Counter[str] = Counter()

    async def call(self, make: Callable[[], Awaitable[object]], started: float | None = None) -> None:
        """Makes one call and notes how it ended; ``started`` is when it was to start, where that was fixed."""
        started = started or time.perf_counter()
        try:
            await make()
        except OrderError as error:
            self._codes[type(error).__name__] += 1
        except grpc.aio.AioRpcError as error:
            self._codes[error.code().name] += 1
        else:
            self._latencies_s.append(time.perf_counter() - started)

    def figures(self) -> dict[str, object]:
        """Returns them as JSON."""
        seconds = time.perf_counter() - self.began
        ordered = sorted(self._latencies_s) or [0.0]
        return {
            "rows": len(self._latencies_s),
            "seconds": seconds,
            "p50_ms": percentile(ordered, 0.5) * 1e3,
            "p99_ms": percentile(ordered, 0.99) * 1e3,
            "errors": dict(self._codes),
        }


@app.command("client")
def client(
    endpoints: Annotated[str, typer.Option(help="host:port of each worker, joined by commas.")],
    callers: Annotated[int, typer.Option(help="Tasks that create at once.")] = 512,
) -> None:
    """Create through ``OrderClient``, each task one order after the other."""
    uvloop.run(_serve_client(endpoints, callers))


@app.command("channel")
def channel(
    endpoints: Annotated[str, typer.Option(help="host:port of each worker, joined by commas.")],
    policy: Annotated[str, typer.Option(help="Balancing policy of gRPC.")],
    rate: Annotated[float, typer.Option(help="Calls a second.")],
) -> None:
    """Create through plain stubs, at a fixed rate."""
    uvloop.run(_serve_channel(endpoints, policy, rate))


async def _serve_client(endpoints: str, callers: int) -> None:
    chance = random.Random()
    contents = [load.create_request(chance) for _ in range(_CONTENTS)]
    drafts = [
        (
            one.customer_id,
            one.currency_code,
            [OrderLine(line.sku, line.quantity, line.unit_price_minor) for line in one.lines],
            dict(one.attributes),
        )
        for one in contents
    ]
    async with OrderClient(endpoints.split(","), deadline_s=_DEADLINE_S) as orders:

        async def create() -> object:
            customer, currency, lines, attributes = chance.choice(drafts)
            return await orders.create(customer, currency, lines, attributes=attributes)

        async def run(seconds: float) -> dict[str, object]:
            tally = Tally()

            async def caller() -> None:
                while time.perf_counter() - tally.began < seconds:
                    await tally.call(create)

            await asyncio.gather(*(caller() for _ in range(callers)))
            return tally.figures()

        await Tally().call(create)  # connect before the first run
        await _told(run)


async def _serve_channel(endpoints: str, policy: str, rate: float) -> None:
    chance = random.Random()
    settings: dict[str, Any] = {}
    if policy == "weighted_round_robin":
        settings = {"blackoutPeriod": "0s", "weightUpdatePeriod": "0.1s"}
    config = json.dumps({"loadBalancingConfig": [{policy: settings}]})
    options = [
        ("grpc.service_config", config),
        ("grpc.enable_channelz", 1),
        # else the list of addresses would be sent as the name of the host, which is none, and be refused
        ("grpc.default_authority", endpoints.partition(",")[0]),
    ]
    async with grpc.aio.insecure_channel(f"ipv4:{endpoints}", options=options) as link:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = link.unary_unary("/orders.v1.OrderService/CreateOrder")

        async def create() -> object:
            message = load.create_request(chance).SerializeToString()
            return await method(message, timeout=_DEADLINE_S, wait_for_ready=True)

        async def run(seconds: float) -> dict[str, object]:
            tally, before = Tally(), calls_by_endpoint()
            under_way: set[asyncio.Task[None]] = set()
            for number in range(int(rate * seconds)):
                start = tally.began + number / rate
                if (early_s := start - time.perf_counter()) > 0:
                    await asyncio.sleep(early_s)  # sleep: until this call's intended start
                if len(under_way) >= _IN_FLIGHT_MAX:
                    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                task = asyncio.create_task(tally.call(create, start))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            if under_way:
                await asyncio.wait(under_way)
            spread: Counter[str] = Counter()
            for one, calls in calls_by_endpoint().items():
                spread[one.target] += calls - before.get(one, 0)
            return tally.figures() | {"spread": dict(spread)}

        await Tally().call(create)  # connect before the first run
        await _told(run)


class Subchannel(NamedTuple):
    """One of gRPC's lasting tries to be connected to an endpoint; a new one counts from zero."""

    number: int
    target: str


def calls_by_endpoint() -> dict[Subchannel, int]:
    """Returns the calls that this process has started so far, by gRPC's own count (channelz)."""
    found: dict[Subchannel, int] = {}
    tops = ChannelzServicer.GetTopChannels(channelz_pb2.GetTopChannelsRequest(start_channel_id=0), None).channel
    for reference in (one for top in tops for one in top.subchannel_ref):
        asked = channelz_pb2.GetSubchannelRequest(subchannel_id=reference.subchannel_id)
        data = ChannelzServicer.GetSubchannel(asked, None).subchannel.data
        target = data.target.removeprefix("ipv4:")
        found[Subchannel(reference.subchannel_id, target)] = data.calls_started
    return found


async def _told(run: Callable[[float], Awaitable[dict[str, object]]]) -> None:
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await run(float(line))), flush=True)


if __name__ == "__main__":
    app()
