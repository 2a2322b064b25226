"""The API as clients have it: no change breaks them unnoticed, and every part of it says what it is."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from tests.tools.generate_proto import AGREED, OURS, ROOT, as_agreed, breaking

on_buf = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="buf is among the dependencies on the platform of CI only"
)
FILES: Final = sorted(path.name for path in (ROOT / OURS).glob("*.proto"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    return tmp_path


def change(tree: Path, old: str, new: str) -> None:
    path = tree / OURS / "decisions.proto"
    text = path.read_text()
    assert text.count(old) >= 1, f"{old!r} is not in it"
    path.write_text(text.replace(old, new, 1))


@on_buf
def test_what_is_in_the_tree_breaks_nobody() -> None:
    assert breaking() == ""


@on_buf
def test_what_is_agreed_is_all_that_there_is() -> None:
    assert AGREED.read_bytes() == as_agreed(), "`make proto` has not been run since"


@on_buf
@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("  string upstream = 4; ", "  //", 'Previously present field "4"'),
        ("  string upstream = 4; ", "  string upstream = 5; ", 'Previously present field "4"'),
        ("  string upstream = 4; ", "  string upstream_name = 4; ", "changed name"),
        ("  int32 status = 2; ", "  string status = 2; ", "changed type"),
        ("repeated DecideRequest requests = 1;", "DecideRequest requests = 1;", "changed cardinality"),
        ("  rpc Void(VoidRequest) returns (SettleResponse);", "", 'RPC "Void" on service "Decisions" was deleted'),
        ("returns (stream WatchDecisionsResponse)", "returns (WatchDecisionsResponse)", "streaming"),
        ("rpc Void(VoidRequest)", "rpc Void(SettleRequest)", "changed request type"),
        ("message Header {", "message Heading {", 'message "Header" was deleted'),
        ("  OUTCOME_NOT_SENT = 4;", "  OUTCOME_NOT_SENT = 5;", 'enum value "4"'),
        ("package authz.v1;", "package authz.v2;", "package"),
    ],
)
def test_a_change_that_breaks_clients_is_found(tree: Path, old: str, new: str, found: str) -> None:
    if old.startswith("message"):
        text = (tree / OURS / "decisions.proto").read_text()
        (tree / OURS / "decisions.proto").write_text(text.replace("Header ", "Heading "))
    else:
        change(tree, old, new)
    assert found.lower() in breaking(tree).lower()


@on_buf
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("message Header {", "message More {\n  string a = 1;\n}\n\nmessage Header {"),
        ("  string upstream = 4; ", "  string region = 9;\n  string upstream = 4; "),
        ("  OUTCOME_NOT_SENT = 4;", "  OUTCOME_LOST = 5;\n  OUTCOME_NOT_SENT = 4;"),
        ("  rpc Void(", "  rpc Again(VoidRequest) returns (SettleResponse);\n  rpc Void("),
        ("// of HTTP", "// of HTTP, always"),
    ],
)
def test_an_addition_breaks_nobody(tree: Path, old: str, new: str) -> None:
    change(tree, old, new)
    assert breaking(tree) == ""
    assert as_agreed(tree) != AGREED.read_bytes() or old.startswith("//")


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileDescriptorProto]:
    made = tmp_path_factory.mktemp("proto") / "set"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", "--include_source_info", "-o", str(made)]
    subprocess.run([*command, *(str(ROOT / OURS / name) for name in FILES)], check=True)
    return {Path(file.name).name: file for file in FileDescriptorSet.FromString(made.read_bytes()).file}


SERVICE, MESSAGE, ENUM, IN_MESSAGE, METHOD, VALUE = 6, 4, 5, 2, 2, 2
"""Numbers of the fields of descriptors, of which a source location's path consists."""


@pytest.mark.parametrize("name", FILES)
def test_every_service_method_field_and_value_says_what_it_is(described: dict[str, FileDescriptorProto], name: str) -> None:
    file = described[name]
    said = {
        tuple(location.path): (location.leading_comments + location.trailing_comments).strip()
        for location in file.source_code_info.location
    }
    parts: list[tuple[str, tuple[int, ...]]] = []

    def add(kind: int, inner: int, what: Any, parent: str, elements: Any) -> None:
        parts.extend((f"{parent}.{element.name}", (kind, what, inner, number)) for number, element in enumerate(elements))

    for at, service in enumerate(file.service):
        parts.append((service.name, (SERVICE, at)))
        add(SERVICE, METHOD, at, service.name, service.method)
    for at, message in enumerate(file.message_type):
        add(MESSAGE, IN_MESSAGE, at, message.name, message.field)
    for at, enum in enumerate(file.enum_type):
        add(ENUM, VALUE, at, enum.name, enum.value)
    assert len(parts) > 10
    assert [part for part, path in parts if not said.get(path)] == []
