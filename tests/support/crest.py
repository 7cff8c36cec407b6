"""The real server, started as an operator starts it, and calls to it as any caller makes them."""

import json
import socket
import sys
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import grpc

from protos.orders.v1 import orders_pb2, orders_pb2_grpc
from shards.keys import format_uuid, mint_uuid7
from tests.support.server_process import ServerProcess

SERVICE_CONFIG: Final = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "orders.v1.OrderService"},
    }
)
"""What a balancing caller is told to use. No retries: a test counts what fails."""


class Crest(ServerProcess):
    """``python -m server`` on ``host``, its ports counted from ``port``; metrics on the one 90 above it."""

    def __init__(self, host: str, port: int, data_dir: Path, *flags: str) -> None:
        self.host = host
        self.port = port
        self.metrics_port = port + 90
        super().__init__(
            [
                *(sys.executable, "-m", "server"),
                *("--host", host, "--port", str(port), "--metrics-port", str(self.metrics_port)),
                # more than the default: whatever goes wrong between shards is to be found, too
                *("--data-dir", str(data_dir), "--shards", "4", "--drain-wait-s", "0.5"),
                # a machine that is busy with other tests is slow, and that is not what these are about
                *("--boot-timeout-s", "90", "--stall-timeout-s", "30"),
                *flags,
            ],
            {},
        )

    def wait_serving(self, workers: int = 2) -> list[int]:
        """Waits until every worker serves on both its ports and the metrics are there; returns the workers' pids."""
        pids = [self.wait_ready(f"worker-{number}") for number in range(workers)]
        self.wait_ready("exporter")
        self.wait_logged("listening", workers, address=f"{self.host}:{self.port}")
        return pids

    def get(self, path: str) -> str:
        """Returns what the exporter answers."""
        with urlopen(f"http://{self.host}:{self.metrics_port}{path}", timeout=60) as answer:  # our own http
            return str(answer.read().decode())

    def balanced(self, workers: int = 2) -> grpc.aio.Channel:
        """Returns a channel that balances over the workers' own ports and watches their health."""
        addresses = ",".join(f"{self.host}:{self.port + 1 + number}" for number in range(workers))
        return grpc.aio.insecure_channel(
            f"ipv4:{addresses}",
            options=[
                ("grpc.service_config", SERVICE_CONFIG),
                ("grpc.use_local_subchannel_pool", 1),
                # made of all addresses otherwise, which is no authority (RFC 3986), and the native transport refuses it
                ("grpc.default_authority", self.host),
            ],
        )

    def channel(self, worker: int | None = None) -> grpc.aio.Channel:
        """Returns a channel to one worker, or to the shared port."""
        port = self.port if worker is None else self.port + 1 + worker
        return grpc.aio.insecure_channel(f"{self.host}:{port}", options=[("grpc.use_local_subchannel_pool", 1)])

    def listens(self, port: int) -> bool:
        """Whether anyone accepts connections there."""
        with socket.socket() as probe:
            return probe.connect_ex((self.host, port)) == 0


def create_request(customer_id: str = "customer-1", request_id: bytes | None = None) -> orders_pb2.CreateOrderRequest:
    """Returns a request for a small order, with a new request id unless one is given."""
    return orders_pb2.CreateOrderRequest(
        request_id=format_uuid(request_id or mint_uuid7()),
        customer_id=customer_id,
        currency_code="EUR",
        lines=[orders_pb2.OrderLine(sku="sku-1", quantity=2, unit_price_minor=995)],
    )


def orders(channel: grpc.aio.Channel) -> "orders_pb2_grpc.OrderServiceAsyncStub":
    """Returns the stub of the order service."""
    return orders_pb2_grpc.OrderServiceStub(channel)
