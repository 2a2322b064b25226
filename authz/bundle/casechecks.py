"""That a bundle's tests speak of what there is. A test that names what does not exist would be green for the wrong reason."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

from authz.bundle.cases import Path, PlacedCase
from authz.bundle.checks import Names
from authz.model import Uid
from authz.policy import ACTIONS
from authz.quota.definitions import parse_uid
from authz.reasons import Reason

_SHADOW_VERBS: Final = ("allow:", "deny:")


def check_cases(cases: Iterable[PlacedCase], policies: frozenset[str], quotas: frozenset[str], names: Names) -> None:
    """`policies` and `quotas` are ids. Raises `ConfigError` at the value, wherever it was said."""
    for placed in cases:
        _check_principal(placed, names)
        _check_request(placed, names)
        _check_used(placed, quotas)
        _check_expected(placed, policies, quotas)


def _check_principal(placed: PlacedCase, names: Names) -> None:
    case = placed.case
    principal = _uid(placed, ("principal",), case.principal)
    teams = names.directory.users.get(principal.id, {}) if principal.type == "User" else None
    if principal not in names.entities or principal.type not in ("Key", "User"):
        raise placed.fail(("principal",), f"{principal} is no key and no user of the directory")
    if teams is not None and case.team not in teams:
        raise placed.fail(("team",), f"{principal} acts in one of its teams, expected `team:` with one of {sorted(teams)}")
    if teams is None and case.team is not None:
        raise placed.fail(("team",), "a key acts in its own team: leave `team` out")


def _check_request(placed: PlacedCase, names: Names) -> None:
    request = placed.case.request
    spec = ACTIONS.get(request.action)
    if spec is None:
        problem = f"unknown action `{request.action}`, expected one of {', '.join(ACTIONS)}"
        raise placed.fail(("request", "action"), problem)
    if (request.model is None) == (request.resource is None) or ((request.model is None) is ("Model" in spec.resources)):
        wanted = "`model` and no `resource`" if "Model" in spec.resources else "`resource` and no `model`"
        raise placed.fail(("request",), f"expected {wanted} for `{request.action}`")
    not_found = placed.case.expect.reason is Reason.MODEL_NOT_FOUND
    if request.model is not None and request.model not in names.models and not not_found:
        problem = f"unknown model `{request.model}`: only `model_not_found` can be expected of it"
        raise placed.fail(("request", "model"), problem)
    if request.resource is not None and _uid(placed, ("request", "resource"), request.resource) not in names.entities:
        raise placed.fail(("request", "resource"), f"{request.resource} does not exist")
    if request.time is not None and request.time.tzinfo is None:
        raise placed.fail(("request", "time"), "expected a time with an offset, like `2026-12-31T23:30:00+01:00`")
    if request.source_ip and not _is_address(request.source_ip):
        problem = f"`{request.source_ip}` is no address: a policy would see none, which is what leaving it out is for"
        raise placed.fail(("request", "source_ip"), problem)


def _check_used(placed: PlacedCase, quotas: frozenset[str]) -> None:
    for quota in placed.case.used:
        if quota not in quotas:
            said = placed.place(("used", quota))
            whole = said[:-1] if said[-1] == quota else said  # the slip is the key, and a caret stands at values only
            raise placed.source.fail(whole, f"there is no quota `{quota}`")


def _check_expected(placed: PlacedCase, policies: frozenset[str], quotas: frozenset[str]) -> None:
    expect = placed.case.expect
    for policy in expect.policies or ():
        if policy not in policies:
            raise placed.fail(("expect", "policies"), f"there is no policy `{policy}`")
    for entry in expect.shadow or ():
        verb = next((verb for verb in _SHADOW_VERBS if entry.startswith(verb)), None)
        if verb is None or entry.removeprefix(verb) not in policies:
            raise placed.fail(("expect", "shadow"), f"found `{entry}`, expected `allow:` or `deny:` and the id of a policy")
    if expect.quota is not None and expect.quota not in quotas:
        raise placed.fail(("expect", "quota"), f"there is no quota `{expect.quota}`")
    if expect.effect == "allow" and expect.reason is not None:
        raise placed.fail(("expect", "reason"), "an allow has no reason")
    if expect.effect == "allow" and expect.quota is not None:
        raise placed.fail(("expect", "quota"), "an allow has no quota that refuses")


def _uid(placed: PlacedCase, path: Path, text: str) -> Uid:
    try:
        return parse_uid(text)
    except ValueError as error:
        raise placed.fail(path, str(error)) from None


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
