"""Cedar text into `Policy` values: each with its `@id`, its scope as data, and where it stands.

A template is inert until a link fills its slots. Slots stand in the scope only, so a link is the template's own text with the
slot replaced by an entity; from there on it is a policy like any other, under the link's id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from authz.errors import ConfigError
from authz.model import Uid
from authz.policy import cedar
from authz.policy.cedar import CedarError, Schema
from authz.policy.guard import MAX_POLICIES, CedarText, Statement, Token, check_schema, statements, tokens


class Effect(StrEnum):
    PERMIT = "permit"
    FORBID = "forbid"


class Mode(StrEnum):
    ENFORCE = "enforce"
    SHADOW = "shadow"  # evaluated and recorded, decides nothing


class Match(Struct, frozen=True):
    """What a scope asks of the principal or the resource; a field that is None asks nothing.

    equals  this entity   ·   within  this entity or a member of it   ·   type  an entity of this type
    """

    equals: Uid | None = None
    within: Uid | None = None
    type: str | None = None


class Policy(Struct, frozen=True):
    """One policy in force.

    actions   ids of which the request's action must be one, or a member of one; None for any
    exact     the action must be the one named (`==`), not a member of it
    literals  entities that the conditions name
    facts     fields of the context that the conditions look at, as `cedar.context_fields` has them; None for all
    text      complete Cedar text, annotations included
    template  `@id` of the template that it was linked from
    """

    id: str
    effect: Effect
    mode: Mode
    principal: Match
    actions: tuple[str, ...] | None
    exact: bool
    resource: Match
    literals: frozenset[Uid]
    facts: frozenset[str] | None
    annotations: dict[str, str]
    text: str
    file: str
    line: int
    template: str | None = None


class Link(Struct, frozen=True):
    """A template made a policy: which entities stand in its slots."""

    id: str
    template: str
    principal: Uid | None = None
    resource: Uid | None = None


class Template(Struct, frozen=True):
    id: str
    slots: frozenset[str]
    statement: Statement


class LinkError(ValueError):
    """A link that cannot be made; `index` is its place among the links."""

    def __init__(self, index: int, problem: str) -> None:
        self.index = index
        super().__init__(problem)


def read_schema(source: CedarText) -> Schema:
    """Raises `ConfigError`, at the name that Cedar stumbles over where it can be found."""
    check_schema(source)
    if not source.text.strip():
        raise ConfigError(source.file, "an empty schema: nothing could be checked against it")
    try:
        return cedar.parse_schema(source.text)
    except CedarError as error:
        problem = _RESOLVE.sub(_once, str(error))
        raise source.fail(_place_in_schema(source, problem), problem) from None


def _place_in_schema(source: CedarText, problem: str) -> int:
    """The offset that Cedar's message is about."""
    found = list(tokens(source))
    if problem.startswith("unexpected end"):
        return found[-1].start if found else 0
    match = _QUOTED.search(problem) or _RESOLVE.search(problem)
    candidates = [token for token in found if match and token.text.strip('"') == match.group(1).strip('"')]
    if problem.startswith("unexpected token"):
        for token in candidates:
            try:
                cedar.parse_schema(source.text[: token.end])
            except CedarError as error:
                if str(error) == problem:
                    return token.start
    if candidates:
        return candidates[0].start
    return max(0, source.text.find(match.group(1))) if match else 0


def _once(match: re.Match[str]) -> str:
    """Cedar names a type as often as it stands somewhere, and several in an order that changes from one process to the next."""
    names = sorted(set(match.group().partition(": ")[2].split(", ")))
    return f"failed to resolve type{'s' if len(names) > 1 else ''}: {', '.join(names)}"


def read_policies(sources: Sequence[CedarText], schema: Schema, links: Sequence[Link] = ()) -> tuple[Policy, ...]:
    """Parses, checks and validates everything; the order of files and policies is kept, links come last.

    Raises `ConfigError` with file, line and caret, and `LinkError` for a link.
    """
    found = _bounded(sources, len(links))
    policies, linked = _parsed(found, links)
    for error in _invalid(found, schema):
        raise error
    for position, problem in cedar.validate("\n".join(policy.text for policy in linked), schema):
        index = position.removeprefix("policy")
        raise LinkError(int(index) if index.isdecimal() else 0, problem)
    return (*policies, *linked)


def policy_problems(sources: Sequence[CedarText], schema: Schema | None) -> Iterator[ConfigError]:
    """Everything that `read_policies` could complain of, not only the first: each policy by itself, then those that parse
    together, against the schema where there is one."""
    good: list[Statement] = []
    for source in sources:
        try:
            found = statements(source)
        except ConfigError as error:
            yield error
            continue
        for statement in found:
            try:
                _read_statements([statement])
            except ConfigError as error:
                yield error
            else:
                good.append(statement)
    try:
        _read_statements(good)
    except ConfigError as error:
        yield error
    if schema is not None and good:
        yield from _invalid(good, schema)


def parse_policies(sources: Sequence[CedarText], links: Sequence[Link] = ()) -> tuple[Policy, ...]:
    """The same without a schema: what parses may still make no sense."""
    policies, linked = _parsed(_bounded(sources, len(links)), links)
    return (*policies, *linked)


def _bounded(sources: Sequence[CedarText], links: int) -> list[Statement]:
    found: list[Statement] = []
    for source in sources:
        found.extend(statements(source))
        if len(found) + links > MAX_POLICIES:
            raise ConfigError(source.file, f"more than {MAX_POLICIES} policies in the bundle")
    return found


def _parsed(found: Sequence[Statement], links: Sequence[Link]) -> tuple[list[Policy], list[Policy]]:
    policies, templates = _read_statements(found)
    return policies, _linked({template.id: template for template in templates}, {policy.id for policy in policies}, links)


def _read_statements(found: Sequence[Statement]) -> tuple[list[Policy], list[Template]]:
    policies: list[Policy] = []
    templates: list[Template] = []
    seen: dict[str, Statement] = {}
    for statement, tree in zip(found, _syntax(found), strict=True):
        name = _id(statement, tree)
        if name in seen:
            first = seen[name]
            raise statement.fail(f"the id `{name}` stands at {first.source.file}:{first.line} already")
        seen[name] = statement
        slots = frozenset(token.text for token in _slots(statement))
        if slots:
            _mode(statement, tree)
            templates.append(Template(name, slots, statement))
        else:
            policies.append(_policy(name, tree, statement.text, statement, None))
    return policies, templates


def _syntax(found: Sequence[Statement]) -> list[dict[str, Any]]:
    """The syntax tree of every statement. Parsed together, and one by one only to find the culprit."""
    try:
        trees = cedar.syntax("\n".join(statement.text for statement in found))
    except CedarError as error:
        for statement in found:
            try:
                cedar.syntax(statement.text)
            except CedarError as own:
                raise statement.fail(str(own), _culprit(statement, str(own))) from None
        raise ConfigError(found[0].source.file, str(error)) from None
    if len(trees) != len(found):
        # INVARIANT: what the guard takes for one policy is one to Cedar; else the bounds were held on another text.
        raise ConfigError(found[0].source.file, f"{len(trees)} policies where {len(found)} were expected")
    return [trees[f"policy{index}"] for index in range(len(found))]


def _policy(name: str, tree: dict[str, Any], text: str, statement: Statement, template: str | None) -> Policy:
    try:
        actions, exact = _actions(tree["action"])
        principal, resource = _match(tree["principal"]), _match(tree["resource"])
    except CedarError as error:
        raise statement.fail(str(error)) from None
    return Policy(
        id=name,
        effect=Effect(tree["effect"]),
        mode=_mode(statement, tree),
        principal=principal,
        actions=actions,
        exact=exact,
        resource=resource,
        literals=cedar.entity_literals(tree["conditions"]),
        facts=cedar.context_fields(tree["conditions"]),
        annotations={key: value or "" for key, value in tree.get("annotations", {}).items()},
        text=text,
        file=statement.source.file,
        line=statement.line,
        template=template,
    )


def _id(statement: Statement, tree: dict[str, Any]) -> str:
    name = (tree.get("annotations") or {}).get("id")
    if not name:
        raise statement.fail('a policy without an id, expected `@id("…")` before it: decisions are explained by it')
    if not name.isprintable() or "`" in name or len(name) > _MAX_ID:
        raise statement.fail(f"the id {name!r}, expected at most {_MAX_ID} printable characters")
    return str(name)


def _mode(statement: Statement, tree: dict[str, Any]) -> Mode:
    text = (tree.get("annotations") or {}).get("mode", Mode.ENFORCE)
    if text not in Mode.__members__.values():
        raise statement.fail(f'`@mode("{text}")`, expected `enforce` or `shadow`')
    return Mode(text)


def _match(scope: dict[str, Any]) -> Match:
    match scope:
        case {"op": "All"}:
            return Match()
        case {"op": "==", "entity": entity}:
            return Match(equals=_uid(entity))
        case {"op": "in", "entity": entity}:
            return Match(within=_uid(entity))
        case {"op": "is", "entity_type": kind, "in": {"entity": entity}}:
            return Match(type=kind, within=_uid(entity))
        case {"op": "is", "entity_type": kind} if "in" not in scope:
            return Match(type=kind)
        case _:
            raise CedarError(f"a scope of a kind that is not known here: {scope}")


def _actions(scope: dict[str, Any]) -> tuple[tuple[str, ...] | None, bool]:
    match scope:
        case {"op": "All"}:
            return None, False
        case {"op": "==", "entity": entity}:
            return (_uid(entity).id,), True
        case {"op": "in", "entity": entity}:
            return (_uid(entity).id,), False
        case {"op": "in", "entities": entities}:
            return tuple(_uid(entity).id for entity in entities), False
        case _:
            raise CedarError(f"an action scope of a kind that is not known here: {scope}")


def _uid(entity: dict[str, str]) -> Uid:
    return Uid(entity["type"], entity["id"])


def _linked(templates: Mapping[str, Template], taken: set[str], links: Sequence[Link]) -> list[Policy]:
    found: list[Policy] = []
    taken = taken | set(templates)
    for index, link in enumerate(links):
        template = templates.get(link.template)
        if template is None:
            raise LinkError(index, f"unknown template `{link.template}`")
        if not link.id.isprintable() or not 0 < len(link.id) <= _MAX_ID or "`" in link.id:
            raise LinkError(index, f"the id {link.id!r}, expected at most {_MAX_ID} printable characters")
        if link.id in taken:
            raise LinkError(index, f"the id `{link.id}` is taken already")
        taken.add(link.id)
        given = {"?principal": link.principal, "?resource": link.resource}
        values = {slot: value for slot, value in given.items() if value is not None}
        if values.keys() != template.slots:
            raise LinkError(index, f"template `{template.id}` has the slots {cedar.quoted(sorted(template.slots))}")
        for slot, value in values.items():
            if not all(part.isidentifier() for part in value.type.split("::")):
                raise LinkError(index, f"{slot}: `{value.type}` is not the name of a type")
        text = _filled(template.statement, values)
        try:
            (tree,) = cedar.syntax(text).values()
        except CedarError as error:
            raise LinkError(index, str(error)) from None
        found.append(_policy(link.id, tree, text, template.statement, template.id))
    return found


def _filled(statement: Statement, values: Mapping[str, Uid]) -> str:
    parts, at = [], statement.start
    for token in _slots(statement):
        parts += [statement.source.text[at : token.start], literal(values[token.text])]
        at = token.end
    parts.append(statement.source.text[at : statement.tokens[-1].end])
    return "".join(parts)


def literal(uid: Uid) -> str:
    """An entity as Cedar text; whatever is not a plain character is written as its code point."""
    escaped = "".join(char if char.isalnum() and char.isascii() else f"\\u{{{ord(char):x}}}" for char in uid.id)
    return f'{uid.type}::"{escaped}"'


def _slots(statement: Statement) -> list[Token]:
    """`?principal` and `?resource`, which the scanner gives as two tokens."""
    pairs = zip(statement.tokens, statement.tokens[1:], strict=False)
    return [Token("?" + name.text, mark.start, name.end) for mark, name in pairs if mark.text == "?"]


def _invalid(found: Sequence[Statement], schema: Schema) -> Iterator[ConfigError]:
    """One error for each place, in the order of the text: Cedar tells of a field that does not exist once for every action, and
    where a name in the scope does not exist, of what follows from that too; and in no order."""
    problems = cedar.validate("\n".join(statement.text for statement in found), schema)
    wrong = {policy for policy, problem in problems if not problem.startswith(_FOLLOWS)}
    told: dict[tuple[int, int], ConfigError] = {}
    for policy, problem in sorted(problems):
        place = policy.removeprefix("policy")
        if not place.isdecimal() or int(place) >= len(found):
            yield ConfigError(found[0].source.file, problem)
            continue
        statement = found[int(place)]
        token = _culprit(statement, problem) or statement.tokens[0]
        if not (policy in wrong and problem.startswith(_FOLLOWS)):
            told.setdefault((int(place), token.start), statement.fail(problem, token))
    for at in sorted(told):
        yield told[at]


def _culprit(statement: Statement, problem: str) -> Token | None:
    """The token that Cedar's message speaks of; Cedar gives no position.

    For an unexpected token it is the first at which the text so far is wrong and not merely unfinished.
    """
    names = _QUOTED.findall(problem) or _NAMED.findall(problem)
    if not names:
        return statement.tokens[-1] if problem.startswith("unexpected end") else None
    path = {names[0], names[0].rpartition(".")[2]}  # of `spend.orgs` the last part is the one that is wrong
    candidates = [token for token in statement.tokens if token.text in path]
    if problem.startswith("unexpected token"):
        for token in candidates:
            try:
                cedar.syntax(statement.source.text[statement.start : token.end])
            except CedarError as error:
                if str(error) == problem:
                    return token
    if candidates:
        return candidates[0]
    for token in statement.tokens:  # `Action::"cht"`: the message has the whole entity, the text may have spaces in it
        if token.text.startswith('"') and names[0].endswith(token.text):
            return token
    return None


_QUOTED: Final = re.compile(r"`([^`]+)`")
_NAMED: Final = re.compile(r": @?(\w+)$")
"""As in `invalid policy effect: premit`."""
_RESOLVE: Final = re.compile(r"failed to resolve types?: ([^,]+).*")
_FOLLOWS: Final = "unable to find an applicable action"
_MAX_ID: Final = 200
