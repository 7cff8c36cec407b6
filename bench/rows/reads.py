"""GetOrder of orders that the cache holds, against a server that does nothing on the same transport."""

from __future__ import annotations

import contextlib
import random
from typing import Final

import grpc

from bench import figures, load, subjects
from bench.parts import Context, Outcome
from bench.rounds import ByGhz, Plan, take_turns, warm
from bench.rows import unary
from bench.subjects import Subject
from protos.orders.v1 import orders_pb2, orders_pb2_grpc

HOT: Final = 1_000
"""Orders that are asked for over and over."""

TARGET: Final = 0.5
_BATCH: Final = 500


class Reads:
    """See ``bench.parts.Part``."""

    name = "reads"
    title = "Reading a hot order"
    needs_bed = True
    budget_s = 150.0

    def run(self, context: Context) -> Outcome:
        """Two servers over one Redis Cluster, one of which remembers nothing itself, and the empty peer, in turn."""
        plan = Plan.of(context)
        with contextlib.ExitStack() as stack:
            crest = unary.crest_on(context, stack)
            shared = subjects.crest(
                context.host,
                context.port + 31,
                subjects.WORKERS,
                "native",
                context.scratch,
                bed=context.bed,
                name="crest, Redis only",
                settings={"cache-rows-max": 0},
            )
            unary.started(stack, lambda: shared)
            ids, answer = hot_set(crest, context.chance)
            empty = subjects.empty(context.host, context.port + 50, subjects.WORKERS, "native", context.scratch, answer)
            unary.started(stack, lambda: empty)
            loaded = [ByGhz(context, one, kind=load.get(ids)) for one in (crest, shared, empty)]
            for one in loaded:
                warm(context, one, plan)
            rounds = take_turns(context, loaded, plan)
        notes = {
            crest.name: "As operators run it: each worker remembers, and all share the Redis Cluster.",
            shared.name: "Workers remember nothing themselves: every read asks Redis.",
        }
        rows = [
            figures.row(
                f"GetOrder by ghz, {HOT:,} hot orders in Redis",
                (name, rounds[name]),
                (empty.name, rounds[empty.name]),
                target=TARGET,
                unit="reads/s",
                note=note,
            )
            for name, note in notes.items()
        ]
        return Outcome(
            rows,
            [unary.rates("Reads a second", rounds, "read"), unary.costs("What a read costs", rounds, "read")],
            {"rounds": {name: [one._asdict() for one in some] for name, some in rounds.items()}},
        )


def hot_set(crest: Subject, chance: random.Random) -> tuple[list[str], bytes]:
    """Creates the orders that will be read; returns their ids, and the bytes that a read of one is answered."""
    ids: list[str] = []
    with grpc.insecure_channel(crest.endpoints[0]) as channel:
        stub = orders_pb2_grpc.OrderServiceStub(channel)
        for _ in range(HOT // _BATCH):
            requests = [load.create_request(chance) for _ in range(_BATCH)]
            answer = stub.BatchCreateOrders(orders_pb2.BatchCreateOrdersRequest(requests=requests), timeout=30)
            ids += [result.order.order_id for result in answer.results if result.HasField("order")]
        read = stub.GetOrder(orders_pb2.GetOrderRequest(order_id=ids[0]), timeout=30)
    return ids, read.SerializeToString()


PART: Final = Reads()
