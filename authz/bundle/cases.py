"""The bundle's own tests: a principal, a request, what the quotas have counted; and the answer that is expected.

    fixtures:                                       # parts of cases by name
      night: {request: {time: 2026-11-24T02:00:00+01:00}}
    cases:
      - name: batch work would stop at 80 per cent of the month
        principal: Key::"batch-processor"           # a user acts in a team: User::"dev" with `team: chatbot`
        request: {model: llama-3.1-8b-instant, stream: true, input_tokens: 1200, max_output_tokens: 400}
        spend: {org: 80}                            # per cent of the fullest budget of each scope, as a policy sees it
        used: {org-spend: 420 USD}                  # what a quota has counted before, in its own unit
        expect: {effect: allow, policies: [analytics-cheapest], shadow: ["deny:batch-stops-at-80-percent"]}
      - name: who works at night
        use: [night]                                # merged in order, maps deeply; what the case itself says comes last
        matrix:                                     # every combination; a key is a path into the case
          principal: ['Key::"chatbot-prod"', 'Key::"batch-processor"']
          request.model: [llama-3.3-70b-versatile, llama-3.1-8b-instant]
        expect: {effect: deny, reason: policy_denied}
        except:                                     # combinations that come out otherwise; the first that fits counts
          - {principal: 'Key::"batch-processor"', expect: {effect: allow}}

What `expect` does not name is not compared.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from authz.errors import ConfigError
from authz.reasons import Reason
from authz.yamlfile import Source, explained

MAX_CASES: Final = 10_000
"""In one bundle, with every combination of every matrix."""

Amount = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Percent = Annotated[int, Meta(ge=0, le=1_000_000)]
Effect = Literal["allow", "deny"]
Axis = Annotated[tuple[Any, ...], Meta(min_length=1)]
Path = tuple[str | int, ...]
T = TypeVar("T")


class CaseRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """model for inference, resource (`Team::"chatbot"`) for administration; `time` as ISO 8601 with an offset."""

    action: str = "chat"
    model: str | None = None
    resource: str | None = None
    stream: bool = False
    input_tokens: Amount = 100
    max_output_tokens: Amount = 100
    endpoint: str = "chat.completions"
    service_tier: str = "on_demand"
    tools: bool = False
    source_ip: str = ""
    time: datetime | None = None


class CasePercents(Struct, frozen=True, forbid_unknown_fields=True):
    org: Percent = 0
    team: Percent = 0
    user: Percent = 0
    key: Percent = 0


class PartExpected(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """policies  determining ids · quota  the one that refuses · shadow  as in `Verdict.shadow`"""

    effect: Effect | UnsetType = UNSET
    reason: Reason | None = None
    policies: tuple[str, ...] | None = None
    quota: str | None = None
    shadow: tuple[str, ...] | None = None


class Expected(PartExpected, frozen=True, forbid_unknown_fields=True, kw_only=True):
    effect: Effect


class Given(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The situation. Without `spend` or `window` these percentages are worked out from `used`."""

    principal: str = ""
    team: str | None = None
    request: CaseRequest = CaseRequest()
    spend: CasePercents | None = None
    window: CasePercents | None = None
    used: dict[str, str | int] = {}


class Case(Given, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A case as it is run: whole, one for each combination of its matrix.

    file, line  where it stands, for reports: a combination that comes out otherwise stands at its `except`
    """

    name: str
    principal: str
    request: CaseRequest
    expect: Expected
    file: str
    line: int


class Fixture(Given, frozen=True, forbid_unknown_fields=True, kw_only=True):
    expect: PartExpected = PartExpected()


class CaseRow(Fixture, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A case as it is written. A row of `except` holds values of axes, and `expect`, which replaces the case's own."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    use: tuple[str, ...] = ()
    matrix: Annotated[dict[str, Axis], Meta(min_length=1)] = {}
    except_: tuple[dict[str, Any], ...] = msgspec.field(default=(), name="except")


class CaseFile(Struct, frozen=True, forbid_unknown_fields=True):
    fixtures: dict[str, Fixture] = {}
    cases: tuple[CaseRow, ...] = ()


class Layer(NamedTuple):
    """What one place of a file says of a case: `says` stands at `at`, and is what the case has `under` this path."""

    under: Path
    says: Any
    at: Path

    def find(self, path: Path) -> Path | None:
        """Where the value that the case has at `path` stands in the file, if it is said here."""
        if path[: len(self.under)] != self.under:
            return None
        rest, value = path[len(self.under) :], self.says
        for step in rest:
            if not isinstance(value, dict) or step not in value:
                return None
            value = value[step]
        return (*self.at, *rest)


class PlacedCase(NamedTuple):
    """A case that still knows where each of its values stands; of its layers a later one hides an earlier."""

    case: Case
    source: Source
    at: Path
    layers: tuple[Layer, ...]

    def place(self, path: Path) -> Path:
        """Where a value of the case was said: in a fixture, in the matrix or in the case itself; else where the case stands."""
        return next((place for layer in reversed(self.layers) if (place := layer.find(path)) is not None), self.at)

    def fail(self, path: Path, problem: str) -> ConfigError:
        """An error at a value of the case."""
        return self.source.fail(self.place(path), problem)


class Exemption(NamedTuple):
    """A row of `except`: the combinations that have these values, as they are shown."""

    values: dict[str, str]
    expect: Layer
    at: Path


def read_cases(sources: Iterable[Source]) -> tuple[PlacedCase, ...]:
    """Every case of a bundle in the order of its files, matrices multiplied out.

    Raises `ConfigError` for what is wrong in itself: a field or path that does not exist, a fixture that is unknown or unused,
    an axis or exception that changes nothing, a name that stands twice, more than `MAX_CASES`.
    """
    found: dict[str, PlacedCase] = {}
    count = 0
    for source in sources:
        file = source.convert(CaseFile)
        for index, row in enumerate(file.cases):
            at: Path = ("cases", index)
            count += math.prod(len(values) for values in row.matrix.values())
            if count > MAX_CASES:
                raise source.fail(at, f"more than {MAX_CASES} cases in the bundle with case `{row.name}` multiplied out")
            for placed in _expanded(source, row, at):
                name = placed.case.name
                if name in found:
                    first = found[name].case
                    raise source.fail((*at, "name"), f"the case `{name}` stands at {first.file}:{first.line} already")
                found[name] = placed
        used = {name for row in file.cases for name in row.use}
        for name in file.fixtures:
            if name not in used:
                raise source.fail(("fixtures", name), f"no case uses the fixture `{name}`")
    return tuple(found.values())


def _expanded(source: Source, row: CaseRow, at: Path) -> Iterator[PlacedCase]:
    raw: dict[str, Any] = _at(source.data, at)
    own = Layer((), {name: value for name, value in raw.items() if name in Fixture.__struct_fields__}, at)
    below = [*_used(source, row, at), own]
    axes = {key: _axis(source, own, key, values) for key, values in row.matrix.items()}
    exemptions = [_exemption(source, axes, (*at, "except", index)) for index in range(len(row.except_))]
    unmatched = list(exemptions)
    for layers in itertools.product(*axes.values()):
        shown = dict(zip(axes, (_shown(layer.says) for layer in layers), strict=True))
        exempt = next((each for each in exemptions if each.values.items() <= shown.items()), None)
        if exempt in unmatched:
            unmatched.remove(exempt)
        name = row.name if not axes else f"{row.name} [{', '.join(f'{key}={value}' for key, value in shown.items())}]"
        yield _placed(source, name, at, [*below, *layers], exempt)
    for exemption in unmatched:
        raise source.fail(exemption.at, "this changes nothing: an earlier row of `except` fits every combination that it fits")


def _used(source: Source, row: CaseRow, at: Path) -> Iterator[Layer]:
    fixtures = source.data.get("fixtures", {})
    for index, name in enumerate(row.use):
        if name not in fixtures:
            expected = f"expected one of {_listed(fixtures)}" if fixtures else "this file has none"
            raise source.fail((*at, "use", index), f"unknown fixture `{name}`, {expected}")
        yield Layer((), fixtures[name], ("fixtures", name))


def _axis(source: Source, own: Layer, key: str, values: tuple[Any, ...]) -> list[Layer]:
    """One layer for each value of an axis."""
    at: Path = (*own.at, "matrix", key)
    under: Path = tuple(key.split(".", 1))
    if key not in _PATHS and not (under[0] == "used" and len(under) > 1):
        near = [path for path in _PATHS if path.startswith(f"{under[0]}.")] or [path for path in _PATHS if "." not in path]
        raise source.fail(at, f"`{key}` is no path into a case, expected one of {_listed(near)}")
    if own.find(under) is not None:
        raise source.fail(at, f"the case itself says `{key}` already, which the matrix would hide")
    found: list[Layer] = []
    seen: set[str] = set()
    for index, value in enumerate(values):
        layer, shown = Layer(under, value, (*at, index)), _shown(value)
        _convert(source, layer, Given)
        if shown in seen:
            raise source.fail(layer.at, f"`{shown}` stands twice in this axis")
        seen.add(shown)
        found.append(layer)
    return found


def _exemption(source: Source, axes: dict[str, list[Layer]], at: Path) -> Exemption:
    raw: dict[str, Any] = _at(source.data, at)
    if "expect" not in raw:
        raise source.fail(at, "expected an `expect`: what comes out for these combinations")
    values = {key: _shown(value) for key, value in raw.items() if key != "expect"}
    if not values:
        raise source.fail(at, "expected a value of an axis: this fits every combination")
    for key, value in values.items():
        if key not in axes:
            expected = f", expected one of {_listed(axes)}" if axes else ": the case has none"
            raise source.fail((*at, key), f"`{key}` is no axis of the matrix{expected}")
        known = [_shown(layer.says) for layer in axes[key]]
        if value not in known:
            raise source.fail((*at, key), f"`{value}` is no value of the axis `{key}`, expected one of {_listed(known)}")
    layer = Layer(("expect",), raw["expect"], (*at, "expect"))
    _convert(source, Layer((), raw["expect"], layer.at), Expected)
    return Exemption(values, layer, at)


def _placed(source: Source, name: str, at: Path, layers: list[Layer], exempt: Exemption | None) -> PlacedCase:
    merged: Any = {}
    for layer in layers:
        merged = _merged(merged, _nested(layer))
    if exempt is not None:
        layers, merged = [*layers, exempt.expect], {**merged, "expect": exempt.expect.says}
    for part in ("principal", "request", "expect"):
        if part not in merged:
            raise source.fail(at, f"the case `{name}` has no `{part}`, neither of its own nor from a fixture")
    if "effect" not in merged["expect"]:
        raise source.fail((*at, "expect"), f"the case `{name}` expects no `effect`, which is `allow` or `deny`")
    place = source.place(exempt.at if exempt is not None else at)
    whole = {**merged, "name": name, "file": source.name, "line": place.line if place is not None else 0}
    return PlacedCase(_convert(source, Layer((), whole, at), Case), source, at, tuple(layers))


def _convert(source: Source, layer: Layer, kind: type[T]) -> T:
    """What a layer says as a `kind`; the file's own types cannot see into a matrix or an exception."""
    try:
        return msgspec.convert(_nested(layer), kind)
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at ")
        path: Path = tuple(_STEP.findall(where))
        problem, unknown = explained(problem, kind, path)
        at: Path = (*layer.at, *path[len(layer.under) :])
        raise (source.fail_key((*at, unknown), problem) if unknown else source.fail(at, problem)) from None


def _nested(layer: Layer) -> Any:
    """What a layer says, as a part of a case from its top."""
    value = layer.says
    for step in reversed(layer.under):
        value = {step: value}
    return value


def _merged(below: Any, above: Any) -> Any:
    """`above` over `below`: maps merged deeply, anything else replaced."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {**below, **{key: _merged(below[key], value) if key in below else value for key, value in above.items()}}


def _shown(value: Any) -> str:
    """A value of an axis in the name of a case; two values are the same if they are shown the same."""
    plain = msgspec.to_builtins(value)
    return plain if isinstance(plain, str) else msgspec.json.encode(plain).decode()


def _at(data: Any, path: Path) -> Any:
    for step in path:
        data = data[step]
    return data


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


_PATHS: Final = (
    *Given.__struct_fields__,
    *(f"request.{name}" for name in CaseRequest.__struct_fields__),
    *(f"{part}.{name}" for part in ("spend", "window") for name in CasePercents.__struct_fields__),
)
_STEP: Final = re.compile(r"\.([A-Za-z_]+)")
