"""The generated messages are those of the .proto files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROTOS = sorted(ROOT.glob("istio/*/protos/*.proto"))


def generated(proto: Path) -> Path:
    return proto.parents[1] / "_pb" / f"{proto.stem}_pb2.py"


def test_every_proto_has_its_python() -> None:
    assert len(PROTOS) >= 6
    for proto in PROTOS:
        assert generated(proto).exists()
        assert generated(proto).with_suffix(".pyi").exists()
    assert sorted(map(generated, PROTOS)) == sorted(ROOT.glob("istio/*/_pb/*_pb2.py"))


def test_the_python_is_up_to_date(tmp_path: Path) -> None:
    """What `make protos` would write is what is there."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    maps = [f"-Iistio/{part}/_pb=istio/{part}/protos" for part in ("xds", "ca")]
    names = [str(proto.relative_to(ROOT)) for proto in PROTOS]
    command = [sys.executable, "-m", "grpc_tools.protoc", *maps, f"--python_out={tmp_path}"]
    subprocess.run([*command, f"--pyi_out={tmp_path}", *names], cwd=ROOT, check=True, timeout=60)
    for proto in PROTOS:
        there = generated(proto)
        made = tmp_path / there.relative_to(ROOT)
        version = re.search(r"Protobuf Python Version: (\S+)", made.read_text())
        assert version is not None
        if version[1] not in there.read_text():
            pytest.skip(f"made by another version of protoc than this one, {version[1]}")
        assert made.read_bytes() == there.read_bytes(), "run `make protos`"
        stub, made_stub = there.with_suffix(".pyi"), made.with_suffix(".pyi")
        assert made_stub.read_bytes() == stub.read_bytes(), "run `make protos`"
