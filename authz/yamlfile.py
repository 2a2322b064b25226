"""A YAML file read into a typed value; what is wrong is said with file, line, column and what was expected.

One reader for the settings and for every file of a bundle. Beyond YAML's own rules it refuses a key that stands twice (YAML
readers keep the last in silence) and fields that the type does not know.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import yaml
from msgspec import inspect

from authz.errors import ConfigError

T = TypeVar("T")

MAX_DEPTH: Final = 64
MAX_BYTES: Final = 32 * 1024 * 1024
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_AT: Final = re.compile(r" - at (?:`key` in )?`\$([^`]*)`$")
_UNKNOWN: Final = re.compile(r"unknown field `([^`]*)`$")
_ENUM: Final = re.compile(r"invalid enum value '(.*)'$", re.IGNORECASE | re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")


class Place(NamedTuple):
    """Where something stands in a file, 1-based."""

    line: int
    column: int


class Source:
    """A parsed file that still knows where everything stands."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self._lines = name, text.splitlines()
        self._kept = text.splitlines(keepends=True)
        try:
            _refuse_depth(text, self.fail_at)
            self._root = yaml.compose(text, Loader=_LOADER)
            self.data: Any = _construct(self._root, self.fail_at)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = Place(mark.line + 1, mark.column + 1) if mark else None
            raise self.fail_at(place, f"not YAML: {error.problem or error.context}") from None
        except yaml.YAMLError as error:
            raise ConfigError(name, f"not YAML: {error}") from None

    def fail(self, path: tuple[str | int, ...], problem: str) -> ConfigError:
        """An error at the value that `path` names, for checks that come after the types."""
        return self.fail_at(self.place(path), problem)

    def fail_key(self, path: tuple[str | int, ...], problem: str) -> ConfigError:
        """An error at the last name of `path` itself, where that is what is wrong."""
        node = self._find(path[:-1])
        keys = [key for key, _ in node.value if key.value == path[-1]] if isinstance(node, yaml.MappingNode) else []
        if not keys:
            return self.fail(path, problem)
        return self.fail_at(Place(keys[0].start_mark.line + 1, keys[0].start_mark.column + 1), problem)

    def place(self, path: tuple[str | int, ...]) -> Place | None:
        """Where the value at `path` stands, or as much of the way there as exists."""
        node = self._root
        found = node
        for step in path:
            found = _child(found, step)
            if found is None:
                break
            node = found
        return None if node is None else Place(node.start_mark.line + 1, node.start_mark.column + 1)

    def span(self, path: tuple[str | int, ...]) -> tuple[int, int] | None:
        """Where the scalar at `path` begins and ends in the text; None where there is none."""
        node = self._find(path)
        if not isinstance(node, yaml.ScalarNode):
            return None
        return self._offset(node.start_mark), self._offset(node.end_mark)

    def first_key(self, path: tuple[str | int, ...]) -> tuple[int, int] | None:
        """Of the mapping at `path`: offset in the text, column from 0; None where there is no mapping, or it is empty."""
        node = self._find(path)
        if not isinstance(node, yaml.MappingNode) or not node.value:
            return None
        mark = node.value[0][0].start_mark
        return self._offset(mark), mark.column

    def is_flow(self, path: tuple[str | int, ...]) -> bool:
        """Whether what is at `path` is written in braces."""
        node = self._find(path)
        return isinstance(node, yaml.CollectionNode) and bool(node.flow_style)

    def _find(self, path: tuple[str | int, ...]) -> Any:
        node = self._root
        for step in path:
            node = _child(node, step)
            if node is None:
                return None
        return node

    def _offset(self, mark: Any) -> int:
        return sum(len(line) for line in self._kept[: mark.line]) + int(mark.column)

    def fail_at(self, place: Place | None, problem: str) -> ConfigError:
        if place is None:
            return ConfigError(self.name, problem)
        line, column = place
        excerpt = self._lines[line - 1] if line <= len(self._lines) else ""
        return ConfigError(self.name, problem, line=line, column=column, excerpt=excerpt)

    def convert(self, kind: type[T]) -> T:
        """The file as a `kind`; raises `ConfigError` at the first value that does not fit."""
        try:
            return msgspec.convert(self.data if self.data is not None else {}, kind)
        except msgspec.ValidationError as error:
            raise self._explain(str(error), kind) from None

    def _explain(self, text: str, kind: type[Any]) -> ConfigError:
        """Splits msgspec's message into problem and path, and finds the names that it leaves out of maps (`[...]`)."""
        match = _AT.search(text)
        path: tuple[str | int, ...] = ()
        for name, index in _STEP.findall(match.group(1)) if match else ():
            step = self._culprit(path, kind, text) if index == "..." else int(index) if index else name
            path = (*path, step)
        problem, unknown = explained(_AT.sub("", text), kind, path)
        path = (*path, unknown) if unknown else path
        where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
        problem = f"{where}: {problem}" if where else problem
        return self.fail_key(path, problem) if unknown else self.fail(path, problem)

    def _culprit(self, path: tuple[str | int, ...], kind: type[Any], text: str) -> str:
        """The key of the map at `path` whose entry alone makes the conversion fail with `text`."""
        entries: dict[str, Any] = _at(self.data, path)
        for key, value in entries.items():
            try:
                msgspec.convert(_replaced(self.data, path, {key: value}), kind)
            except msgspec.ValidationError as error:
                if str(error) == text:  # and not something else that is wrong further on
                    return key
        raise AssertionError("the whole map fails and none of its entries does")


def read_yaml(path: Path, name: str | None = None) -> Source:
    """Reads a file; `name` is how the operator knows it (the path itself by default)."""
    name = name or str(path)
    return parse_yaml(read_text(path, name), name)


def parse_yaml(text: str, name: str) -> Source:
    return Source(name, text)


def read_text(path: Path, name: str) -> str:
    """A file's text: UTF-8, at most `MAX_BYTES`."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(name, f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(name, f"{len(raw)} bytes, expected at most {MAX_BYTES}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(name, f"not UTF-8 at byte {error.start}") from None


def explained(problem: str, kind: type[Any], path: tuple[str | int, ...]) -> tuple[str, str]:
    """msgspec's message for the value at `path` of a `kind`, with what was expected where it leaves that out; and the name of
    the field where the message is that there is none of that name."""
    unknown, enum = _UNKNOWN.search(problem), _ENUM.search(problem)
    if unknown is None and enum is None:
        return problem[:1].lower() + problem[1:], ""
    expected: list[str] = []
    for found in _types_at(inspect.type_info(kind), path):
        if isinstance(found, inspect.EnumType) and enum:
            expected += [str(member.value) for member in found.cls]
        elif isinstance(found, inspect.LiteralType) and enum:
            expected += [str(value) for value in found.values]
        elif isinstance(found, inspect.StructType) and unknown:
            expected += [field.encode_name for field in found.fields]
    wanted = f", expected {_one_of(expected)}" if expected else ""
    if unknown is not None:
        return f"unknown field{wanted}", unknown.group(1)
    return f"invalid enum value '{enum.group(1) if enum else ''}'{wanted}", ""


def _types_at(top: inspect.Type, path: tuple[str | int, ...]) -> list[inspect.Type]:
    """What may stand at `path`: several where the type is a union."""
    found = _members(top)
    for step in path:
        below: list[inspect.Type] = []
        for each in found:
            match each:
                case inspect.StructType():
                    below += [field.type for field in each.fields if field.encode_name == step]
                case inspect.DictType():
                    below.append(each.value_type)
                case inspect.ListType() | inspect.VarTupleType():
                    below.append(each.item_type)
        found = [member for each in below for member in _members(each)]
    return found


def _members(kind: inspect.Type) -> list[inspect.Type]:
    return list(kind.types) if isinstance(kind, inspect.UnionType) else [kind]


def _one_of(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _refuse_depth(text: str, fail_at: Callable[[Place | None, str], ConfigError]) -> None:
    """Bounds nesting on the flat stream of events: the composer recurses on the C stack and would end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                mark = event.start_mark
                raise fail_at(Place(mark.line + 1, mark.column + 1) if mark else None, f"nested deeper than {MAX_DEPTH}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _construct(root: yaml.Node | None, fail_at: Callable[[Place | None, str], ConfigError]) -> Any:
    if root is None:
        return None
    _refuse_twins(root, fail_at)
    loader = _LOADER("")
    try:
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _refuse_twins(root: yaml.Node, fail_at: Callable[[Place | None, str], ConfigError]) -> None:
    """Keys must be text and unique. Walks with a stack of its own and visits an anchored node once."""
    stack, seen = [root], set()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                place = Place(key.start_mark.line + 1, key.start_mark.column + 1)
                if not isinstance(key, yaml.ScalarNode):
                    raise fail_at(place, "expected a plain text key")
                if key.tag == "tag:yaml.org,2002:bool":
                    raise fail_at(place, f"`{key.value}` is a boolean to YAML, expected text: put it in quotes")
                if key.value in keys:
                    raise fail_at(place, f"`{key.value}` stands twice")
                keys.add(key.value)
                stack.append(value)
        elif isinstance(node, yaml.SequenceNode):
            stack.extend(node.value)


def _child(node: yaml.Node | None, step: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == str(step)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        found: yaml.Node = node.value[step]
        return found
    return None


def _at(data: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        data = data[step]
    return data


def _replaced(data: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """A copy of `data` in which the value at `path` is another; all that is beside the path is shared."""
    if not path:
        return value
    copy = data.copy()
    copy[path[0]] = _replaced(data[path[0]], path[1:], value)
    return copy
