"""Cassandra's jars: fetched once by Maven, checked against ``jars.sha256`` each time, shared by all clusters.

Hashing the 66 MB takes 0.2 s, so a jar that was cut short or swapped is found before a JVM meets it. The checksums are
to the jars what a lock file is to packages; ``python -m deploy.cluster.jars FOLDER`` prints them anew after a change of
the version in ``pom.xml``.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from deploy.cluster.errors import ClusterError, MissingError

POM: Final = Path(__file__).with_name("pom.xml")
CHECKSUMS: Final = Path(__file__).with_name("jars.sha256")
FETCH_TIMEOUT_S: Final = 600
"""For 66 MB: 10 s on a good line."""

JAVA_MAJORS: Final = frozenset({17})
"""Cassandra 5.0 knows 11 and 17; the flags in ``cassandra`` are those of 17."""

INSTALL: Final = "Debian 12: apt-get install openjdk-17-jre-headless maven"


def default_directory() -> Path:
    """The user's cache folder, so that every checkout shares the jars and cleaning one keeps them."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crest" / "cassandra-jars"


def expected() -> dict[str, str]:
    """SHA-256 in hex by file name, of ``jars.sha256``."""
    rows = (line.split() for line in CHECKSUMS.read_text("ascii").splitlines())
    return {name: digest for digest, name in rows}


def differences(directory: Path, checksums: Mapping[str, str]) -> list[str]:
    """Names of jars that are missing or of other content than ``checksums`` say, and of jars that they do not name.

    A jar too many counts: the folder is for exactly these.
    """
    present = {path.name for path in directory.glob("*.jar")}
    wrong = present ^ set(checksums)
    for name in present & set(checksums):
        with (directory / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != checksums[name]:
                wrong.add(name)
    return sorted(wrong)


def ensure(directory: Path, *, checksums: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """Returns the class path, sorted; fetches what is not there or not right. Safe to call from several processes.

    Raises ``MissingError`` without Maven, ``ClusterError`` when it fails or brings other content than was recorded.
    """
    checksums = expected() if checksums is None else checksums
    directory = directory.absolute()
    with _locked(directory):
        if differences(directory, checksums):
            _fetch(directory, checksums)
    return tuple(directory / name for name in sorted(checksums))


def java() -> str:
    """Path of a Java of a version that Cassandra runs on: that of JAVA_HOME, else of PATH.

    Raises ``MissingError`` when there is none.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    if found is None:
        raise MissingError(f"no java {f'in JAVA_HOME ({home})' if home else 'on the PATH'}. {INSTALL}")
    told = subprocess.run([found, "-version"], capture_output=True, text=True, check=False, timeout=30).stderr
    match = re.search(r'version "(\d+)', told)
    major = int(match[1]) if match else None
    if major not in JAVA_MAJORS:
        raise MissingError(f"{found} is Java {major}, Cassandra 5.0 needs 17. {INSTALL}; or set JAVA_HOME")
    return found


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Holds the folder against other processes that fetch; the lock goes with the process, whatever ends it."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_name(f"{directory.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(directory: Path, checksums: Mapping[str, str]) -> None:
    mvn = shutil.which("mvn")
    if mvn is None:
        raise MissingError(f"mvn is missing; it fetches Cassandra's jars. {INSTALL}")
    # Beside the target, so that putting it there is one rename: a fetch cut short leaves what was there.
    with tempfile.TemporaryDirectory(prefix=f"{directory.name}.", dir=directory.parent) as scratch:
        fetched = Path(scratch) / "jars"
        # Maven writes its `target` beside the pom; the checkout is no place for that.
        pom = shutil.copy(POM, scratch)
        _maven(
            [mvn, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={fetched}"],
        )
        wrong = differences(fetched, checksums)
        if wrong:
            raise ClusterError(
                f"mvn brought {wrong[0]} and {len(wrong) - 1} more jars other than recorded in {CHECKSUMS.name}"
                if len(wrong) > 1
                else f"mvn brought {wrong[0]} other than recorded in {CHECKSUMS.name}"
            )
        shutil.rmtree(directory, ignore_errors=True)
        fetched.rename(directory)


def _maven(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=FETCH_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"mvn did not finish within {FETCH_TIMEOUT_S} s") from error
    if done.returncode:
        raise ClusterError(f"mvn could not fetch Cassandra's jars: {first_error(done.stdout + done.stderr)}")


def first_error(output: str) -> str:
    """What Maven complains about first, without colours and its mark; the last line when nothing is marked."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in output.splitlines()]
    lines = [line for line in lines if line]
    marked = [line.removeprefix("[ERROR]").strip() for line in lines if line.startswith("[ERROR]")]
    return next(filter(None, marked), lines[-1] if lines else "it said nothing")


if __name__ == "__main__":
    for jar in sorted(Path(sys.argv[1]).glob("*.jar")):
        sys.stdout.write(f"{hashlib.sha256(jar.read_bytes()).hexdigest()}  {jar.name}\n")
