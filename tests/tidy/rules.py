"""The rules of the house that no linter knows, each a pure function from text to findings.

A finding is one line for a person: where and what. The tests beside this file plant a fault for each rule and then
hold the repository to all of them.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import PurePosixPath

LINES_MAX = 500
"""A file longer than this is two rooms."""

DRAWERS = frozenset({"common", "helper", "helpers", "misc", "tools", "util", "utils"})
"""Names that say where things are thrown, not what they are."""

# Put together from halves, so that this file keeps the rule it states.
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error")) + r")\b")

MACHINE = re.compile(
    r"(?<![\w.$}~-])/(?:work|tmp|root|home)/\w"
    r"|pypi\.org|python[h]osted|registry\.npmjs|proxy\.golang|--(?:extra-)?index-url \S|--find-link[s]"
)

EXCUSE = re.compile(r"#\s*(?:noqa:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*|type:\s*ignore\[[^\]]*\])(?P<reason>.*)$")

SLEEPS = frozenset({"time.sleep", "asyncio.sleep"})

SLEEP_MARK = "# sleep:"
"""On the line of a sleep that is not a wait, followed by the reason."""


def numbered(text: str) -> Iterator[tuple[int, str]]:
    """The lines with their numbers as editors count them."""
    return enumerate(text.splitlines(), start=1)


def too_long(path: str, text: str) -> list[str]:
    """No file has more than LINES_MAX lines."""
    count = len(text.splitlines())
    return [f"{path}: {count} lines, at most {LINES_MAX}"] if count > LINES_MAX else []


def unfinished(path: str, text: str) -> list[str]:
    """Nothing calls itself unfinished."""
    return [f"{path}:{n}: {hit[0]}" for n, line in numbered(text) if (hit := UNFINISHED.search(line))]


def drawer(path: str) -> list[str]:
    """No file or folder is a drawer for odds and ends."""
    names = {PurePosixPath(part).stem for part in PurePosixPath(path).parts}
    return [f"{path}: {name} is a drawer, name what it holds" for name in sorted(names & DRAWERS)]


def machine_bound(path: str, text: str) -> list[str]:
    """Nothing names a folder of one machine or the host of a package registry."""
    return [f"{path}:{n}: {hit[0]}" for n, line in numbered(text) if (hit := MACHINE.search(line))]


def excuse_without_reason(path: str, text: str) -> list[str]:
    """A silenced linter or type checker comes with its reason on the same line."""
    return [
        f"{path}:{n}: silenced without a reason"
        for n, line in numbered(text)
        if (hit := EXCUSE.search(line)) and not re.search(r"\w{2}", hit["reason"])
    ]


def promises_nothing(path: str, text: str) -> list[str]:
    """Every test function promises its behaviour in a docstring of one sentence."""
    return [
        f"{path}:{node.lineno}: {node.name} promises nothing in one sentence"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not one_sentence(ast.get_docstring(node) or "")
    ]


def one_sentence(docstring: str) -> bool:
    """Whether the text ends with a full stop and has no sentence before it."""
    line = " ".join(docstring.split())
    return line.endswith(".") and len(line) > 1 and not re.search(r"[.!?]\s+[A-Z]", line)


def sleeping(path: str, text: str) -> list[str]:
    """Nothing sleeps to wait; sleeping zero seconds only yields and is fine."""
    lines = text.splitlines()
    tree = ast.parse(text)
    bare = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        yields = len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
        if bare.get(name, name) in SLEEPS and not yields and SLEEP_MARK not in lines[node.lineno - 1]:
            found.append(f"{path}:{node.lineno}: sleeps; wait for the event")
    return found


def foreign_imports(path: str, text: str, allowed: tuple[str, ...]) -> list[str]:
    """Only the standard library and the modules below `allowed` are imported."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [
            f"{path}:{node.lineno}: imports {name}"
            for name in names
            if name.partition(".")[0] not in sys.stdlib_module_names
            and not any(f"{name}.".startswith(f"{prefix}.") for prefix in allowed)
        ]
    return found


def requirement_name(requirement: str) -> str:
    """The package a requirement line asks for, in lower case with dashes."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def locked(text: str) -> dict[str, tuple[str, int]]:
    """The packages of a lock file: name -> (version, number of hashes)."""
    packages: dict[str, tuple[str, int]] = {}
    name = ""
    for line in text.splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line):
            name = requirement_name(match[1])
            packages[name] = (match[2], 0)
        elif line.strip().startswith("--hash=sha256:"):
            version, hashes = packages[name]
            packages[name] = (version, hashes + 1)
    return packages
