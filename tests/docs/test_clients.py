"""docs/clients.md says what the code does."""

import json
import re
from dataclasses import astuple
from pathlib import Path

from clients import OrderClient, RetryBudget, RetryPolicy, errors
from clients.cli.exits import ExitCode
from protos.orders.v1 import orders_pb2

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")


def test_exit_codes_are_those_of_the_program() -> None:
    """The table of exit codes is the program's."""
    documented = re.findall(r"^\| (\d+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert documented == [(str(code.value), code.meaning) for code in ExitCode]


def test_every_error_class_is_in_the_tree() -> None:
    """The tree of errors names each class of the family."""
    tree = PAGE[PAGE.index("OrderError\n├") :].partition("```")[0]
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    kinds = {kind.__name__ for kind in classes if issubclass(kind, errors.OrderError)}
    assert set(re.findall(r"^[│├└─ ]*(\w+)", tree, re.MULTILINE)) == kinds


def test_every_method_is_in_the_table() -> None:
    """The table of methods names each public coroutine and iterator of the client."""
    public = {name: value for name, value in vars(OrderClient).items() if not name.startswith("_")}
    methods = {name for name, value in public.items() if callable(value)}
    rows = re.findall(r"^\| (`.+?) \|", PAGE, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} >= methods - {"close"}


def test_defaults_are_those_of_the_code() -> None:
    """The numbers in the text are the defaults."""
    policy = RetryPolicy()
    assert astuple(policy) == (10, 0.05, 2.0, 4.0)
    assert RetryBudget().tokens_max == 100
    assert "10 s unless" in PAGE
    assert "ten attempts at most" in PAGE


def test_the_service_config_names_methods_that_exist() -> None:
    """The shipped service config names the service's methods, retries reads only, and leaves no unary call out."""
    config = json.loads((ROOT / "clients" / "service_config.json").read_text(encoding="utf-8"))
    service = orders_pb2.DESCRIPTOR.services_by_name["OrderService"]
    retried, named = set(), set()
    for entry in config["methodConfig"]:
        methods = {name["method"] for name in entry["name"] if name["service"] == service.full_name}
        named |= methods
        retried |= methods if "retryPolicy" in entry else set()
    assert retried == {"GetOrder", "BatchGetOrders", "ListOrders", "WatchOrder"}
    assert named == {method.name for method in service.methods} - {"SubmitOrders"}
