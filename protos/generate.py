"""Generates the Python code beside each .proto; `python -m protos.generate` (`make proto`) for developers.

The code is committed, so that running the service needs no compiler. Each source gives messages (`_pb2.py`), stubs
and servicers (`_pb2_grpc.py`), and types for both (`.pyi`, by mypy-protobuf). `sources.sha256` records the sources
they were made from, so that `--check-sources` can tell stale code without a compiler at hand.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
ROOT = PROTOS.parent
DIGESTS = PROTOS / "sources.sha256"
GENERATED = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def sources() -> list[str]:
    """Every .proto, relative to the root, in one order everywhere."""
    return sorted(path.relative_to(ROOT).as_posix() for path in PROTOS.glob("**/*.proto"))


def digests() -> str:
    """The sources' digests in the format of sha256sum."""
    lines = [f"{hashlib.sha256((ROOT / name).read_bytes()).hexdigest()}  {name}\n" for name in sources()]
    return "".join(lines)


def compile_into(target: Path) -> None:
    """Runs protoc for all sources; the paths under `target` mirror the repository.

    The virtual path `protos=` makes the Python package `protos.orders.v1` while the wire name stays `orders.v1`;
    its price is that our sources import nothing but google/protobuf.
    """
    tools = Path(sys.executable).parent
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "-Iprotos=protos",
            f"--plugin=protoc-gen-mypy={tools / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={tools / 'protoc-gen-mypy_grpc'}",
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--mypy_out=quiet:{target}",
            f"--mypy_grpc_out=quiet:{target}",
            *sources(),
        ],
        cwd=ROOT,
        check=True,
    )


def generated_under(top: Path) -> dict[str, bytes]:
    """The generated files below `top`, by their path in the repository."""
    found = (path for path in (top / "protos").glob("**/*") if path.name.endswith(GENERATED))
    return {path.relative_to(top).as_posix(): path.read_bytes() for path in found}


def differences() -> list[str]:
    """One line for each generated file that is missing, different, or left without its source."""
    with tempfile.TemporaryDirectory() as scratch:
        compile_into(Path(scratch))
        wanted = generated_under(Path(scratch))
    present = generated_under(ROOT)
    return [
        f"{name}: {'missing' if name not in present else 'differs' if name in wanted else 'without a source'}"
        for name in sorted(wanted.keys() | present.keys())
        if wanted.get(name) != present.get(name)
    ]


def stale_sources() -> list[str]:
    """One line when the recorded digests are not those of the sources; asks for no compiler."""
    recorded = DIGESTS.read_text() if DIGESTS.exists() else ""
    return [] if recorded == digests() else [f"{DIGESTS.relative_to(ROOT)}: not of these sources"]


def main() -> int:
    """Generates, or with a flag compares; 0 when the tree is up to date, 1 when it is not."""
    parser = argparse.ArgumentParser(prog="python -m protos.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare, with a fresh generation")
    parser.add_argument("--check-sources", action="store_true", help="only compare the sources' digests")
    asked = parser.parse_args()
    if asked.check or asked.check_sources:
        found = stale_sources() + (differences() if asked.check else [])
        for line in found:
            print(line, file=sys.stderr)
        if found:
            print("Generated code is out of date: run `make proto` and commit the result.", file=sys.stderr)
        return 1 if found else 0
    compile_into(ROOT)
    DIGESTS.write_text(digests())
    print(f"generated from {len(sources())} sources")
    return 0


if __name__ == "__main__":
    sys.exit(main())
