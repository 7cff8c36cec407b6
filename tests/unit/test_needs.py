"""What the suite needs is named before it runs."""

import pytest

from bench.installed import InstallError
from deploy.cluster.errors import MissingError
from tests import needs


def test_all_that_is_missing_is_named_once_and_in_order() -> None:
    """A need that is met says nothing; two that miss the same say it once."""

    def no_java() -> None:
        raise MissingError("java is missing: install it")

    def no_go() -> None:
        raise InstallError("Go is missing: install it")

    assert needs.missing((no_java, lambda: None, no_go, no_java)) == [
        "java is missing: install it",
        "Go is missing: install it",
    ]


def test_without_what_is_needed_the_run_ends_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 and a line for each, so that `make test` stops there."""
    monkeypatch.setattr(needs, "missing", lambda: ["java is missing: install it"])
    assert needs.main() == 1
    assert "missing: java is missing: install it" in capsys.readouterr().err
    monkeypatch.setattr(needs, "missing", list)
    assert needs.main() == 0
