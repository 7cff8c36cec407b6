"""Builds the peer in Go: stubs generated from our .proto, then one binary, kept under a digest of all it is made of."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bench import installed
from bench.installed import ROOT, InstallError

SOURCES: Final = Path(__file__).resolve().parent / "go"
PROTO: Final = ROOT / "protos" / "orders" / "v1" / "orders.proto"
_MODULE: Final = "crest/bench/peers/go"
_STUBS: Final = f"Morders/v1/orders.proto={_MODULE}/ordersv1"
_GENERATORS: Final = (installed.PROTOC_GEN_GO, installed.PROTOC_GEN_GO_GRPC)


def ensure() -> Path:
    """Returns the path of the peer's binary, built now unless it is there. Raises ``InstallError``."""
    files = sorted(file for file in SOURCES.iterdir() if file.suffix in {".go", ".mod", ".sum"})
    binary = installed.FOLDER / f"peer-{digest([*files, PROTO])}"
    if binary.exists():
        return binary
    go = installed.go("the peers in Go")
    generators = [installed.ensure(program) for program in _GENERATORS]
    print("building the peers in Go", flush=True)
    installed.FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=installed.FOLDER.parent, prefix="peer-") as folder:
        for file in files:
            shutil.copy(file, folder)
        _generate(Path(folder), generators)
        draft = Path(folder) / "peer"
        # -mod=readonly: what is built is what go.sum lists
        command = [go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-o", str(draft), "."]
        installed.run(command, "go build of the peers", dict(os.environ), Path(folder))
        draft.replace(binary)
    return binary


def digest(files: Iterable[Path]) -> str:
    """Returns twelve digits that change with the name or the content of any of these files."""
    found = hashlib.blake2b(digest_size=6)
    for file in files:
        content = file.read_bytes()
        found.update(f"{file.name} {len(content)}\n".encode())
        found.update(content)
    return found.hexdigest()


def _generate(folder: Path, generators: Iterable[Path]) -> None:
    # the compiler of the development dependencies, in a process of its own: it keeps what it read for good
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}"]
    command += [f"--plugin={path.name}={path}" for path in generators]
    for kind in ("go", "go-grpc"):
        command += [f"--{kind}_out={folder}", f"--{kind}_opt=module={_MODULE}", f"--{kind}_opt={_STUBS}"]
    installed.run([*command, str(PROTO)], "generating the peers' stubs", dict(os.environ), ROOT)
    if not (folder / "ordersv1").is_dir():
        raise InstallError("the compiler of the protos left no Go code")
