"""Programs in Go that the benchmark installs into ``.tools/bin``, each pinned: generators of load and of code."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / ".tools" / "bin"

_INSTALL_TIMEOUT_S: Final = 600


class InstallError(Exception):
    """A program is missing and cannot be installed; the text is for a person."""


class Program(NamedTuple):
    """One program and where it comes from."""

    name: str
    module: str
    version: str

    @property
    def path(self) -> Path:
        """Where it is, once installed."""
        return FOLDER / self.name


GHZ: Final = Program("ghz", "github.com/bojand/ghz/cmd/ghz", "v0.121.0")
"""Pinned: ``@latest`` resolves to a release of 2021."""

VEGETA: Final = Program("vegeta", "github.com/tsenart/vegeta/v12", "v12.12.0")
"""Load over HTTP, for the peer that has no gRPC."""

PROTOC_GEN_GO: Final = Program("protoc-gen-go", "google.golang.org/protobuf/cmd/protoc-gen-go", "v1.36.12")
PROTOC_GEN_GO_GRPC: Final = Program("protoc-gen-go-grpc", "google.golang.org/grpc/cmd/protoc-gen-go-grpc", "v1.6.2")


def go(wanted_for: str) -> str:
    """Returns the path of Go. Raises ``InstallError``, which tells how to get it."""
    found = shutil.which("go")
    if found is None:
        raise InstallError(
            f"Go is missing, which builds {wanted_for}: install Go 1.22 or later (Debian: apt-get install golang), "
            "which fetches a newer one where a module asks for it"
        )
    return found


def ensure(program: Program) -> Path:
    """Returns the path of a program, installed now when missing. Raises ``InstallError``."""
    if program.path.exists():
        return program.path
    try:
        command = [go(program.name), "install", f"{program.module}@{program.version}"]
    except InstallError as error:
        raise InstallError(f"{error}; or put a {program.name} {program.version} at {_shown(program.path)}") from error
    print(f"installing {program.name} {program.version} into {_shown(FOLDER)}", flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    run(command, f"go install of {program.name}", os.environ | {"GOBIN": str(FOLDER)}, ROOT)
    if not program.path.exists():
        raise InstallError(f"go install of {program.name} left nothing at {_shown(program.path)}")
    return program.path


def run(command: list[str], what: str, environ: dict[str, str], folder: Path) -> None:
    """Runs a step of an installation to its end. Raises ``InstallError`` with the last line that it printed."""
    try:
        done = subprocess.run(
            command, env=environ, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InstallError(f"{what} did not end within {_INSTALL_TIMEOUT_S} s") from error
    if done.returncode:
        raise InstallError(f"{what} failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")


def _shown(path: Path) -> Path:
    return path.relative_to(ROOT)
