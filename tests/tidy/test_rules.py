"""Each rule finds the fault planted for it, and leaves the rightful neighbour alone."""

import pytest

from tests.tidy import rules


def test_long_file_is_found() -> None:
    """The line after the last one allowed makes a finding."""
    assert not rules.too_long("a.py", "x\n" * rules.LINES_MAX)
    assert rules.too_long("a.py", "x\n" * (rules.LINES_MAX + 1)) == ["a.py: 501 lines, at most 500"]


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error"])
def test_unfinished_word_is_found(word: str) -> None:
    """A word that postpones work is found as a word and not as a part of one."""
    assert rules.unfinished("a.py", f"fine\n# {word}: later") == [f"a.py:2: {word}"]
    assert not rules.unfinished("a.py", f"a{word}b")


def test_drawer_is_found() -> None:
    """A drawer is found as a file and as a folder."""
    assert rules.drawer("server/utils.py")
    assert rules.drawer("shards/common/ring.py")
    assert not rules.drawer("shards/ring.py")


@pytest.mark.parametrize(
    "line",
    [
        "see /" + "work/main",
        "open('/" + "tmp/x')",
        "https://pypi" + ".org/simple",
        "--index-url" + " https://host",
    ],
)
def test_machine_bound_line_is_found(line: str) -> None:
    """A folder of one machine and the host of a registry are found."""
    assert rules.machine_bound("a.md", line)


@pytest.mark.parametrize("line", ["tests/tmp/x", "/var/lib/crest", "$HOME/work/x", "--no-emit-index-url"])
def test_path_of_anywhere_is_fine(line: str) -> None:
    """A relative path, a system path and the switch that hides hosts are fine."""
    assert not rules.machine_bound("a.md", line)


def test_excuse_without_reason_is_found() -> None:
    """A silenced line needs words after the code it silences."""
    code = "x = 1  # no" + "qa: E501"
    typed = "x = 1  # type: " + "ignore[misc]"
    assert rules.excuse_without_reason("a.py", code)
    assert rules.excuse_without_reason("a.py", typed)
    assert not rules.excuse_without_reason("a.py", f"{code} - a table")
    assert not rules.excuse_without_reason("a.py", f"{typed}  # the stub lacks it")


@pytest.mark.parametrize("docstring", ["", "'''No full stop'''", "'''One. Two.'''"])
def test_test_without_a_promise_is_found(docstring: str) -> None:
    """A test without a docstring of one sentence is found, in a class and async too."""
    assert rules.promises_nothing("t.py", f"def test_a():\n    {docstring}\n    assert 1")
    assert rules.promises_nothing(
        "t.py", f"class T:\n    async def test_a(self):\n        {docstring}\n        assert 1"
    )
    assert not rules.promises_nothing("t.py", "def test_a():\n    '''One sentence over\n    two lines.'''")


@pytest.mark.parametrize(
    "code",
    [
        "import time\ntime.sleep(1)",
        "import asyncio\nasync def f():\n    await asyncio.sleep(0.1)",
        "from time import sleep as nap\nnap(1)",
    ],
)
def test_sleep_is_found(code: str) -> None:
    """A sleep is found under each of its names, unless the line says why it is no wait."""
    assert rules.sleeping("t.py", code)
    assert not rules.sleeping("t.py", f"{code}  {rules.SLEEP_MARK} the pace of the load")


def test_yield_to_the_loop_is_fine() -> None:
    """Sleeping for zero seconds yields and waits for nothing."""
    assert not rules.sleeping("t.py", "import asyncio\nasync def f():\n    await asyncio.sleep(0)")


def test_foreign_import_is_found() -> None:
    """Only the standard library and the allowed packages pass, also inside functions."""
    allowed = ("server.domain",)
    assert rules.foreign_imports("d.py", "def f():\n    import grpc", allowed) == ["d.py:2: imports grpc"]
    assert rules.foreign_imports("d.py", "from server import config", allowed)
    assert rules.foreign_imports("d.py", "from server.domains import x", allowed)
    assert not rules.foreign_imports("d.py", "import re\nfrom server.domain import states", allowed)


def test_lock_is_read() -> None:
    """The reader of lock files sees names, versions and the number of hashes."""
    text = "A_b==1.0 ; python_version\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nc==2\n    # via x\n"
    assert rules.locked(text) == {"a-b": ("1.0", 2), "c": ("2", 0)}
