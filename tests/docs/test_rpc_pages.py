"""The pages that the wire's code prints are those in docs/, and they say what orders.proto says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from protos.orders.v1 import orders_pb2
from server.domain.errors import Reason
from server.rpc import errors, lifecycle
from server.rpc.errors import RULES

ROOT = Path(__file__).parents[2]
PROTO = (ROOT / "protos/orders/v1/orders.proto").read_text()


def commented_codes() -> dict[str, str]:
    """The code that stands first in the comment of each reason in orders.proto."""
    found = re.findall(r"((?:  // .*\n)+)  ERROR_REASON_(\w+) = [1-9]", PROTO)
    return {name: comment.lstrip(" /").partition(".")[0] for comment, name in found}


@pytest.mark.parametrize(("name", "page"), [("errors", errors.page), ("lifecycle", lifecycle.page)])
def test_a_page_is_what_the_code_prints(name: str, page: Callable[[], str]) -> None:
    """The page in docs/ is the one printed by its module."""
    assert (ROOT / f"docs/{name}.md").read_text() == page(), f"run: python -m server.rpc.{name} > docs/{name}.md"


def test_the_named_command_prints_the_page() -> None:
    """The command that a page names prints that page."""
    command = [sys.executable, "-m", "server.rpc.lifecycle"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed == lifecycle.page()


def test_every_reason_has_one_rule_and_one_number() -> None:
    """Domain, table and wire know the same reasons."""
    on_the_wire = {name.removeprefix("ERROR_REASON_") for name in orders_pb2.ErrorReason.keys()}  # noqa: SIM118  # an enum wrapper, no dict
    assert {reason.name for reason in Reason} == on_the_wire - {"UNSPECIFIED"}
    assert set(RULES) == set(Reason)


def test_the_codes_are_those_of_the_proto() -> None:
    """Each reason has the code that its comment in orders.proto begins with."""
    assert commented_codes() == {reason.name: rule.code.name for reason, rule in RULES.items()}


def test_metadata_of_the_proto_is_in_the_table() -> None:
    """Every metadata key that the comment of a reason names stands in its rule."""
    for comment, name in re.findall(r"((?:  // .*\n)+)  ERROR_REASON_(\w+) = [1-9]", PROTO):
        for named in re.findall(r"metadata ((?:`\w+`(?:, )?)+)", comment.replace("\n  //", "")):
            keys = set(re.findall(r"`(\w+)`", named))
            assert keys <= set(RULES[Reason[name]].metadata), name


def test_a_hint_comes_with_what_can_be_retried() -> None:
    """The rules that say yes to a retry have a hint, and only they."""
    for rule in RULES.values():
        assert rule.retry in {"yes", "later", "no"}
        assert (rule.retry == "yes") == (rule.retry_after_s is not None)
        assert rule.code is not grpc.StatusCode.UNKNOWN
