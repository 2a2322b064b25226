"""Whether an Envoy configuration goes round us: somebody else's file, or ours after an edit, read as Envoy would read it.

Only what stands in the file can be judged, so routes, filters or listeners that Envoy would fetch from elsewhere are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from authz.errors import ConfigError
from authz.review.findings import Finding, Severity, of_error
from authz.yamlfile import Source, read_yaml

RULE: Final = "envoy-goes-round"
UNREADABLE: Final = "envoy-unreadable"

_MANAGER: Final = ".http_connection_manager.v3.HttpConnectionManager"
_EXT_AUTHZ: Final = ".ext_authz.v3.ExtAuthz"
_PER_ROUTE: Final = ".ext_authz.v3.ExtAuthzPerRoute"

_ROUTER: Final = ".router.v3.Router"

_HARMLESS: Final = (
    ".ai_protocol_manager.v3.AiProtocolManager",
    ".header_to_metadata.v3.Config",
    ".json_to_metadata.v3.JsonToMetadata",
    _ROUTER,
    ".sse_to_metadata.v3.SseToMetadata",
)
"""Behind ext_authz these read, and what was decided on is what is sent. Of any other filter nobody here can say so."""

_EXPECTED: Final[tuple[tuple[tuple[str, ...], tuple[object, ...], str], ...]] = (
    (("use_remote_address",), (True,), "otherwise the client says where it comes from"),
    (("normalize_path",), (True,), "otherwise `..` leads past what was decided on"),
    (("merge_slashes",), (True,), "otherwise `//` leads past what was decided on"),
    (("path_with_escaped_slashes_action",), ("REJECT_REQUEST",), "otherwise `%2F` leads past what was decided on"),
    (
        ("common_http_protocol_options", "headers_with_underscores_action"),
        ("REJECT_REQUEST", "DROP_HEADER"),
        "otherwise `x_authz_` is `x-authz-` to some readers",
    ),
)
"""Of a connection manager: where, what, why."""

_NEVER: Final[dict[str, str]] = {
    "upgrade_configs": "an upgraded connection goes round the body that is decided on",
    "config_discovery": "what Envoy fetches from elsewhere cannot be looked at here",
    "rds": "what Envoy fetches from elsewhere cannot be looked at here",
    "scoped_routes": "what Envoy fetches from elsewhere cannot be looked at here",
    "request_mirror_policies": "a copy of the request would go elsewhere, with the upstream key",
    "internal_redirect_policy": "a redirected request is not the one that was decided on",
    "hedge_policy": "one allowed request would be sent several times",
}
"""Keys that may stand nowhere in a connection manager."""

Path_ = tuple[str | int, ...]


def inspect(file: Path) -> tuple[Finding, ...]:
    """What is wrong with it, in the order of the file. Raises `ConfigError` where there is no such file."""
    if not file.is_file():
        raise ConfigError(str(file), "no such file, expected an Envoy configuration")
    try:
        source = read_yaml(file)
    except ConfigError as error:
        return (of_error(error, UNREADABLE),)
    found = [_finding(source, path, problem, severity) for path, problem, severity in _problems(source.data)]
    return tuple(sorted(dict.fromkeys(found), key=lambda finding: (finding.line, finding.column)))


_Problem = tuple[Path_, str, Severity]


def _finding(source: Source, path: Path_, problem: str, severity: Severity) -> Finding:
    error = source.fail(path, problem)
    return Finding(severity, RULE, error.problem, error.file, error.line, error.column, error.excerpt)


def _problems(root: Any) -> Iterator[_Problem]:
    if isinstance(root, dict) and root.get("dynamic_resources"):
        yield _error(("dynamic_resources",), "what Envoy fetches from elsewhere cannot be looked at here")
    managers = [(path, node) for path, node in _walk(root) if _is(node, _MANAGER)]
    if not managers:
        yield _error((), "no HTTP connection manager, expected one with the ext_authz filter")
    for path, manager in managers:
        yield from _in_manager(path, manager)


def _in_manager(path: Path_, manager: dict[str, Any]) -> Iterator[_Problem]:
    forwards = any("route" in node for _, node in _walk(manager.get("route_config")) if isinstance(node, dict))
    if not forwards and not {"rds", "scoped_routes"} & manager.keys():
        return
    for names, expected, why in _EXPECTED:
        value: Any = manager
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        if value not in expected:
            yield _error((*path, *names), f"{'.'.join(names)}: expected {expected[0]}: {why}")
    if manager.get("preserve_external_request_id") is True:
        yield _error(
            (*path, "preserve_external_request_id"), "preserve_external_request_id: the request id has to be Envoy's own"
        )
    for at, node in _walk(manager, path):
        if isinstance(node, dict):
            yield from _anywhere(at, node)
    yield from _filters((*path, "http_filters"), manager.get("http_filters"))


def _anywhere(path: Path_, node: dict[str, Any]) -> Iterator[_Problem]:
    for key, why in _NEVER.items():
        if node.get(key):
            yield _error((*path, key), f"{key}: {why}")
    if node.get("clear_route_cache") is True or node.get("route_cache_action") == "CLEAR":
        key = "clear_route_cache" if node.get("clear_route_cache") is True else "route_cache_action"
        yield _error((*path, key), f"{key}: the route that was decided on has to be the one that is taken")
    route = node.get("route")
    for at, holder in (((*path, "route"), route), (path, node if "domains" in node else None)):
        if isinstance(holder, dict) and holder.get("retry_policy"):
            yield _error((*at, "retry_policy"), "retry_policy: one allowed request would be sent several times")
    overrides = node.get("typed_per_filter_config")
    for name, given in overrides.items() if isinstance(overrides, dict) else ():
        if "ext_authz" in name or any(_is(inner, _PER_ROUTE) for _, inner in _walk(given)):
            yield from _override((*path, "typed_per_filter_config", name), given)


def _override(path: Path_, given: Any) -> Iterator[_Problem]:
    """What a route changes of the filter: how much is read, and no more."""
    for at, node in _walk(given, path):
        if not isinstance(node, dict):
            continue
        for key in ("disabled", "disable_request_body_buffering"):
            if node.get(key) is True:
                yield _error((*at, key), f"{key}: nobody would be asked about this route, or not about its body")
        yield from _body(at, node)


def _filters(path: Path_, filters: Any) -> Iterator[_Problem]:
    rows = filters if isinstance(filters, list) else []
    kinds = [row.get("typed_config") if isinstance(row, dict) else None for row in rows]
    end = next((at for at, kind in enumerate(kinds) if _is(kind, _ROUTER)), len(rows))
    ours = [at for at, kind in enumerate(kinds[:end]) if _is(kind, _EXT_AUTHZ)]
    if not ours:
        yield _error(path, "http_filters: no ext_authz, expected one before the router: nobody would be asked")
        return
    for at, row in enumerate(rows):
        if at > ours[0] and at not in ours and not any(_is(kinds[at], kind) for kind in _HARMLESS):
            name = row.get("name", "") if isinstance(row, dict) else row
            problem = f"`{name}` stands behind ext_authz: what it changes was not decided on"
            yield (*path, at), problem, Severity.WARNING
    for at in ours:
        yield from _ext_authz((*path, at), rows[at])


def _ext_authz(path: Path_, row: dict[str, Any]) -> Iterator[_Problem]:
    if row.get("disabled") is True:
        yield _error((*path, "disabled"), "disabled: nobody would be asked")
    config, at = row["typed_config"], (*path, "typed_config")
    if config.get("failure_mode_allow") not in (None, False):
        yield _error((*at, "failure_mode_allow"), "failure_mode_allow: expected false: what nobody decided on would be sent")
    for key in ("filter_enabled", "filter_enabled_metadata"):
        if key in config:
            yield _error((*at, key), f"{key}: nobody would be asked about some of the requests")
    if config.get("validate_mutations") is not True:
        yield _error((*at, "validate_mutations"), "validate_mutations: expected true: a line break would split an answer")
    if not config.get("with_request_body"):
        yield _error(at, "with_request_body: expected one: the model stands in the body")
    yield from _body(at, config)


def _body(path: Path_, node: dict[str, Any]) -> Iterator[_Problem]:
    body = node.get("with_request_body")
    if not isinstance(body, dict):
        return
    at = (*path, "with_request_body")
    if body.get("allow_partial_message") not in (None, False):
        yield _error((*at, "allow_partial_message"), "allow_partial_message: expected false: the rest was not decided on")
    if body.get("pack_as_bytes") is not True:
        yield _error((*at, "pack_as_bytes"), "pack_as_bytes: expected true: as text, other bytes are judged than those sent")


def _error(path: Path_, problem: str) -> _Problem:
    return path, problem, Severity.ERROR


def _is(node: Any, kind: str) -> bool:
    return isinstance(node, dict) and str(node.get("@type", "")).endswith(kind)


def _walk(node: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every value below, itself included. The reader has bounded how deep that can be."""
    yield path, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _walk(value, (*path, key))
    elif isinstance(node, list):
        for at, value in enumerate(node):
            yield from _walk(value, (*path, at))
