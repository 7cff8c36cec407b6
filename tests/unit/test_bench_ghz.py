"""What the load generator is told of the wire."""

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from bench import ghz
from bench.installed import ROOT
from protos.orders.v1 import orders_pb2


@pytest.mark.parametrize("method", ghz.TOLD_LESS)
def test_what_ghz_is_told_less_of_is_the_same_on_the_wire(method: str, tmp_path: Path) -> None:
    """A method has the same messages, and each field its name and number; what is bytes there is a message, as sent."""
    file = ROOT / ghz.TOLD_LESS[method]
    compiled = tmp_path / "descriptors"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{file.parent}", f"--descriptor_set_out={compiled}"]
    subprocess.run([*command, file.name], check=True, timeout=60)
    (told,) = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes()).file
    pool = descriptor_pool.DescriptorPool()
    pool.Add(told)
    less = pool.FindMethodByName(method.replace("/", "."))
    service, _, name = method.rpartition("/")
    real = orders_pb2.DESCRIPTOR.services_by_name[service.rpartition(".")[2]].methods_by_name[name]
    for mine, theirs in ((less.input_type, real.input_type), (less.output_type, real.output_type)):
        assert mine.full_name == theirs.full_name
        assert list(mine.fields_by_number) == list(theirs.fields_by_number)
        for number, field in mine.fields_by_number.items():
            other = theirs.fields_by_number[number]
            assert (field.name, field.is_repeated) == (other.name, other.is_repeated)
            assert (field.type, other.type) == (field.TYPE_BYTES, other.TYPE_MESSAGE)
