"""Workers that are frozen while slots move: nothing they answer afterwards is out of date."""

import asyncio
import fcntl
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from protos.orders.v1 import orders_pb2 as pb
from shards.assembly import StorageSettings, open_fleet
from shards.keys import parse_uuid7, slot_of
from shards.rebalance.home import Book
from shards.rebalance.mover import Mover
from shards.rebalance.record import Kind, State, start
from shards.stores.embedded import control_path
from shards.topology_store import TopologyStore
from tests.support.addresses import loopback
from tests.support.crest import Crest, create_request, orders
from tests.support.waiting import until

HOST = loopback(47)
PORT = 28700
CUSTOMERS = 12


async def test_a_worker_frozen_past_its_lease_answers_nothing_stale(tmp_path: Path) -> None:
    """A worker that is stopped, outlives its lease, and goes on after a flip answers nothing stale."""
    # what it is asked when it goes on, after the orders moved and changed through another worker, it answers as they
    # are now, or not at all; what was under way in it is done once or not at all
    with Crest(HOST, PORT, tmp_path / "data", "--workers", "2") as server:
        pids = await asyncio.to_thread(server.wait_serving)
        fleet = await open_fleet(StorageSettings(data_dir=tmp_path / "data"))
        async with server.channel(0) as frozen_channel, server.channel(1) as channel:
            frozen, awake = orders(frozen_channel), orders(channel)
            requests = [create_request(f"customer {n}") for n in range(CUSTOMERS)]
            made = [(await frozen.CreateOrder(request, timeout=20)).order for request in requests]
            before = [asyncio.ensure_future(create(frozen, f"customer {n}")) for n in range(CUSTOMERS)]
            os.kill(pids[0], signal.SIGSTOP)
            try:
                await move(fleet, {slot_of(parse_uuid7(order.order_id) or b"") for order in made})
                for order in made:
                    confirmed = await awake.ConfirmPayment(
                        pb.ConfirmPaymentRequest(order_id=order.order_id), timeout=20
                    )
                    assert confirmed.order.version == 2
                await fleet.close()
                with unreadable(control_path(tmp_path / "data")):
                    os.kill(pids[0], signal.SIGCONT)
                    # nothing tells it that the orders have moved: that its lease has run out is all it has to go by
                    told = Counter(await asyncio.gather(*(ask(frozen, order) for order in made)))
                    assert told == {"UNAVAILABLE": CUSTOMERS}
            finally:
                os.kill(pids[0], signal.SIGCONT)
            told = Counter([await until_answered(frozen, order) for order in made])
            assert told == {"as it is": CUSTOMERS}
            told = Counter(await asyncio.gather(*(replay(frozen, request) for request in requests)))
            assert told == {"replayed": CUSTOMERS}
            for n, created in enumerate(await asyncio.gather(*before)):
                listed = await awake.ListOrders(pb.ListOrdersRequest(customer_id=f"customer {n}"), timeout=20)
                ids = {order.order_id for order in listed.orders}
                assert made[n].order_id in ids
                assert created is None or created in ids
                assert len(ids) == len(listed.orders) <= 2


@contextmanager
def unreadable(control: Path) -> Iterator[None]:
    """Keeps all other processes from reading the control file, by the locks that readers of a WAL take.

    They are bytes 120 to 127 of its index (sqlite.org/walformat.html, "WAL locks"). It must not be open here otherwise.
    """
    with control.with_name(control.name + "-shm").open("r+b") as index:
        fcntl.lockf(index, fcntl.LOCK_EX, 8, 120)  # waits for readings under way, which are short
        yield


async def move(fleet: object, slots: set[int]) -> None:
    """Moves slots to the next shard, as an operator has it done."""
    home = fleet.home  # type: ignore[attr-defined]  # either of two kinds
    topology = await TopologyStore(home).load()
    assert topology is not None
    targets = {slot: (topology.slot_shards[slot] + 1) % 4 for slot in slots}
    record = start(topology, targets, topology.shards, kind=Kind.SPLIT, who="test")
    assert await Book(home).replace(0, record)
    finished = await Mover(fleet).run(stays=False)  # type: ignore[arg-type]  # as above
    assert finished is not None
    assert finished.state is State.DONE


async def create(stub: object, customer: str) -> str | None:
    """Creates an order; returns its id if that was acknowledged."""
    try:
        answer = await stub.CreateOrder(create_request(customer), timeout=60)  # type: ignore[attr-defined]  # generated
    except grpc.aio.AioRpcError:
        return None
    return str(answer.order.order_id)


async def ask(stub: object, order: pb.Order) -> str:
    """Asks for an order that is confirmed by now."""
    request = pb.GetOrderRequest(order_id=order.order_id, consistency=pb.CONSISTENCY_STRONG)
    try:
        answer = await stub.GetOrder(request, timeout=30)  # type: ignore[attr-defined]  # generated
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "as it is" if answer.order.version == 2 else f"stale: version {answer.order.version}"


async def until_answered(stub: object, order: pb.Order) -> str:
    """Asks until the worker has its lease again."""
    return await until(lambda: ask(stub, order), lambda told: told != "UNAVAILABLE")


async def replay(stub: object, request: pb.CreateOrderRequest) -> str:
    """Makes a request once more."""
    try:
        answer = await stub.CreateOrder(request, timeout=30)  # type: ignore[attr-defined]  # generated
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "replayed" if answer.replayed else "created twice"
