"""The blocking face has the shape of the client."""

import inspect

from clients import BlockingOrderClient, OrderClient
from clients.blocking import Settings

NOT_FOR_BLOCKING = {"addresses"}


def test_the_blocking_face_has_every_method() -> None:
    """Each public method of the client is there, with the same parameters."""
    for name, method in vars(OrderClient).items():
        if name.startswith("_") or name in NOT_FOR_BLOCKING | {"close"}:
            continue
        blocking = getattr(BlockingOrderClient, name)
        assert inspect.signature(blocking).parameters == inspect.signature(method).parameters


def test_the_blocking_face_takes_every_setting() -> None:
    """The settings of both constructors are the same."""
    parameters = set(inspect.signature(OrderClient.__init__).parameters) - {"self", "endpoints"}
    assert set(Settings.__annotations__) == parameters
