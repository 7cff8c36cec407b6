"""The README's console block does what it shows."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.support.addresses import loopback
from tests.support.crest import Crest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _console_block() -> list[tuple[str, str]]:
    """Returns the commands of the console block, each with what is shown under it."""
    block = README.partition("```console\n")[2].partition("```")[0]
    shown = [part.partition("\n") for part in block.split("$ ")[1:]]
    return [(command, output.strip()) for command, _, output in shown]


def _as_pattern(shown: str) -> str:
    """Returns the pattern of what is shown: blanks are elastic, and `…` stands for anything."""
    words = (r"\S*".join(re.escape(part) for part in word.split("…")) for word in shown.split())
    return r"\s+".join(words)


def test_the_console_block_does_what_it_shows(tmp_path: Path) -> None:
    """Every command of the README's console block succeeds on a new server and prints what stands under it."""
    commands = _console_block()
    assert len(commands) >= 4
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    with Crest(loopback(19), 20_600, tmp_path / "data") as crest:
        crest.wait_serving()
        environ = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CREST_ENDPOINT": f"{loopback(19)}:20600",
            "COLUMNS": "100",
        }
        for command, shown in commands:
            if command.startswith(". .venv"):  # the environment of this test stands in for it
                continue
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=tmp_path,
                env=environ,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode in {0, 10}, done.stderr  # 10: loaded, with rejects, as the example has one
            assert re.search(_as_pattern(shown), done.stdout), f"{command}\n{done.stdout}"


def test_the_python_block_runs(tmp_path: Path) -> None:
    """The README's Python example runs as it stands and moves the order it makes."""
    code = README.partition("```python\n")[2].partition("```")[0].replace("127.0.0.1:50051", f"{loopback(19)}:20620")
    imports, _, body = code.partition("\n\n")
    program = (
        f"{imports}\nimport asyncio\n\nasync def main():\n{textwrap.indent(body, '    ')}\n        print(paid.order)\n"
    )
    with Crest(loopback(19), 20_620, tmp_path / "data") as crest:
        crest.wait_serving()
        done = subprocess.run(
            [sys.executable, "-c", f"{program}\nasyncio.run(main())"],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "PAID" in done.stdout
