"""The repository keeps the rules of the house."""

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

from tests.tidy import rules

ROOT = Path(__file__).resolve().parents[2]
GENERATED = re.compile(r"_pb2(_grpc)?\.pyi?$|^requirements.*\.lock$|^LICENSE$|^tests/data/|\.(csv|png|svg)$")


@cache
def files() -> dict[str, str]:
    """Text of every file that is, or is about to be, in git, by path; without generated code and data."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    present = (name for name in listed if name and not GENERATED.search(name) and (ROOT / name).is_file())
    return {name: (ROOT / name).read_text(encoding="utf-8", errors="replace") for name in present}


def python(*tops: str) -> dict[str, str]:
    """The Python files below these folders."""
    return {name: text for name, text in files().items() if name.endswith(".py") and name.startswith(tops)}


@cache
def project() -> tuple[list[str], list[str]]:
    """The direct dependencies, as (runtime, development)."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return (
        [rules.requirement_name(line) for line in declared["project"]["dependencies"]],
        [rules.requirement_name(line) for line in declared["dependency-groups"]["dev"]],
    )


def test_files_are_short() -> None:
    """No file is longer than a reader can hold."""
    assert not [found for name, text in files().items() for found in rules.too_long(name, text)]


def test_nothing_is_left_unfinished() -> None:
    """No file carries a word that postpones work."""
    assert not [found for name, text in files().items() for found in rules.unfinished(name, text)]


def test_there_is_no_drawer() -> None:
    """No file or folder has a name that holds anything."""
    assert not [found for name in files() for found in rules.drawer(name)]


def test_nothing_names_a_machine() -> None:
    """No file, lock files included, names a folder of one machine or a registry's host."""
    locks = {name: (ROOT / name).read_text() for name in ("requirements.lock", "requirements-dev.lock")}
    assert not [found for name, text in (files() | locks).items() for found in rules.machine_bound(name, text)]


def test_silence_has_a_reason() -> None:
    """Each silenced linter or type checker says why."""
    assert not [found for name, text in python("").items() for found in rules.excuse_without_reason(name, text)]


def test_ignored_rules_have_a_reason() -> None:
    """Each rule that ruff is told to ignore has its reason on the same line."""
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    ignored = [line for line in lines if re.match(r'\s+"[A-Z]+\d*",', line)]
    assert ignored
    assert not [line for line in ignored if not re.search(r"# \w", line)]


def test_tests_promise_one_behaviour() -> None:
    """Every test has a docstring of one sentence."""
    assert not [found for name, text in python("tests/").items() for found in rules.promises_nothing(name, text)]


def test_tests_wait_for_events() -> None:
    """No test sleeps to wait."""
    assert not [found for name, text in python("tests/").items() for found in rules.sleeping(name, text)]


def test_domain_and_supervisor_stand_alone() -> None:
    """The domain imports itself, the supervisor the server's own modules, and both the standard library only."""
    domain = python("server/domain/")
    supervisor = python("server/supervisor")
    assert domain
    found = [line for name, text in domain.items() for line in rules.foreign_imports(name, text, ("server.domain",))]
    found += [line for name, text in supervisor.items() for line in rules.foreign_imports(name, text, ("server",))]
    assert not found


def test_dependencies_have_a_reason() -> None:
    """docs/dependencies.md lists the direct dependencies, all of them and no others, each with a reason."""
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE)
    runtime, development = project()
    assert [name for name, _ in rows] == sorted(runtime) + sorted(development)
    assert all(reason.strip() for _, reason in rows)


def test_locks_are_complete_and_agree() -> None:
    """Every locked package has a hash, every direct dependency is locked, and both files name one version."""
    run = rules.locked((ROOT / "requirements.lock").read_text())
    dev = rules.locked((ROOT / "requirements-dev.lock").read_text())
    runtime, development = project()
    assert not [name for name, (_, hashes) in (run | dev).items() if hashes == 0]
    assert set(runtime) <= set(run)
    assert set(runtime + development) <= set(dev)
    assert {name: dev.get(name) for name in run} == run


def test_locks_name_no_host() -> None:
    """The lock files hold no address, so that each machine uses the registry it is set up for."""
    for name in ("requirements.lock", "requirements-dev.lock"):
        assert "://" not in (ROOT / name).read_text(), name
