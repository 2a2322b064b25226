"""The bundle's own cases, run: each through the PDP on a ledger of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from authz.bundle import Bundle, Case
from authz.bundle.cases import CasePercents
from authz.errors import ConfigError
from authz.identity.directory import Directory
from authz.model import Ask, Asked, Deny, Principal, Uid, Usage
from authz.policy import AdminContext, Percents, Verdict
from authz.quota.definitions import parse_uid
from authz.reasons import Reason
from authz.review.bench import Bench, priced

DEFAULT_TIME: Final = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
"""When a case happens that does not say: a Monday noon, so that a suite comes out the same whenever it is run."""


class Result(Struct, frozen=True):
    """How one case came out.

    problems  what is not as expected; empty is a pass
    policies  the determining ids, of the permits or of the forbids
    shadow    as in `Verdict.shadow`
    quota     the quota that refused
    """

    case: Case
    problems: tuple[str, ...]
    effect: str
    reason: Reason | None
    policies: tuple[str, ...]
    shadow: tuple[str, ...]
    quota: str | None
    message: str


class Report(Struct, frozen=True):
    """undecided  ids of policies that decided nothing in any case: neither determined an answer nor would have
    policies   how many there are"""

    results: tuple[Result, ...]
    undecided: tuple[str, ...]
    policies: int

    @property
    def failed(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.problems)


class _Seen(Struct, frozen=True):
    effect: str
    reason: Reason | None
    policies: tuple[str, ...]
    shadow: tuple[str, ...]
    quota: str | None
    message: str


def run(bundle: Bundle) -> Report:
    """Every case of the bundle."""
    results = tuple(run_case(bundle, case) for case in bundle.cases)
    return Report(results, _undecided(bundle, results), len(bundle.policies))


def run_case(bundle: Bundle, case: Case) -> Result:
    try:
        seen = _administer(bundle, case) if case.request.resource is not None else _infer(bundle, case)
    except ValueError as error:
        return Result(case, (str(error),), "", None, (), (), None, "")
    problems = tuple(_problems(case, seen))
    return Result(case, problems, seen.effect, seen.reason, seen.policies, seen.shadow, seen.quota, seen.message)


def refuse_failures(report: Report) -> None:
    """Raises `ConfigError` at the first case that does not come out as expected."""
    failed = report.failed
    if failed:
        first = failed[0]
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise ConfigError(
            first.case.file, f"case `{first.case.name}`: {'; '.join(first.problems)}{more}", line=first.case.line, column=1
        )


def principal_of(bundle: Bundle, uid: Uid, team: str | None, now_ns: int) -> Principal:
    """The key, or the user acting in `team`. Raises `ValueError` for nobody, and for one that is not in force at that time."""
    directory = bundle.directory
    found = directory.user(uid.id, team or "", now_ns) if uid.type == "User" else directory.principal(uid.id, now_ns)
    if found is None:
        raise ValueError(f"{uid} {_absence(directory, uid, team, now_ns)}")
    return found


def _absence(directory: Directory, uid: Uid, team: str | None, now_ns: int) -> str:
    if uid.type == "User":
        teams = directory.users.get(uid.id)
        if teams is None:
            return "is no user of the directory"
        if team not in teams:
            some = ", ".join(f"`{name}`" for name in sorted(teams)) or "one, and the directory has them in none"
            return f"acts in one of their teams, expected {some}"
    elif uid.type != "Key" or uid.id not in directory.keys:
        return "is no key of the directory"
    return f"is disabled or expired at {datetime.fromtimestamp(now_ns // 10**9, UTC).isoformat()}"


def _infer(bundle: Bundle, case: Case) -> _Seen:
    with Bench(bundle) as bench:
        asked = _asked(bundle, case)
        bench.use(asked, case.used)
        decision = bench.decide(asked, spend=_percents(case.spend), window=_percents(case.window))
    record = decision.record
    shadow = record.shadow_policies if isinstance(record.shadow_policies, tuple) else ()
    if not isinstance(decision, Deny):
        return _Seen("allow", None, record.policies, shadow, None, "")
    return _Seen("deny", decision.reason, record.policies, shadow, record.quota, decision.message)


def _administer(bundle: Bundle, case: Case) -> _Seen:
    request, now_ns = case.request, _now_ns(case)
    principal = principal_of(bundle, parse_uid(case.principal), case.team, now_ns)
    resource = parse_uid(request.resource or "")
    verdict = bundle.policy.decide(principal, request.action, (resource,), AdminContext(request.source_ip, now_ns))
    reason = None if verdict.allowed else _admin_reason(verdict)
    return _Seen("allow" if verdict.allowed else "deny", reason, verdict.policies, verdict.shadow, None, "")


def _admin_reason(verdict: Verdict) -> Reason | None:
    if verdict.errors:
        return Reason.POLICY_ERROR
    return Reason.POLICY_DENIED if verdict.forbidden else None


def _asked(bundle: Bundle, case: Case) -> Asked:
    request, now_ns = case.request, _now_ns(case)
    tokens = Usage(request.input_tokens, request.max_output_tokens)
    model = request.model or ""
    return Asked(
        principal=principal_of(bundle, parse_uid(case.principal), case.team, now_ns),
        ask=Ask(
            endpoint=request.endpoint,
            action=request.action,
            models=(model,),
            stream=request.stream,
            input_bytes=request.input_tokens,
            max_output_tokens=request.max_output_tokens,
            service_tier=request.service_tier,
            tools=request.tools,
        ),
        now_ns=now_ns,
        source_ip=request.source_ip,
        estimate=priced(bundle, model, tokens, tokens, request.action),
    )


def _problems(case: Case, seen: _Seen) -> Iterable[str]:
    expect = case.expect
    if seen.effect != expect.effect:
        said = f": {seen.message}" if seen.message else ""
        yield f"expected {expect.effect}, got {seen.effect}{_why(seen)}{said}"
        return
    if expect.reason is not None and seen.reason is not expect.reason:
        yield f"expected the reason `{expect.reason.value}`, got {_named(seen.reason)}"
    if expect.policies is not None and set(seen.policies) != set(expect.policies):
        yield f"expected the policies {_listed(expect.policies)}, got {_listed(seen.policies)}"
    if expect.quota is not None and seen.quota != expect.quota:
        yield f"expected the quota `{expect.quota}` to refuse, got {f'`{seen.quota}`' if seen.quota else 'none'}"
    if expect.shadow is not None and set(seen.shadow) != set(expect.shadow):
        yield f"expected in shadow {_listed(expect.shadow)}, got {_listed(seen.shadow)}"


def _why(seen: _Seen) -> str:
    by = f" by {_listed(seen.policies)}" if seen.policies else ""
    return f" ({_named(seen.reason)}{by})" if seen.reason else by


def _named(reason: Reason | None) -> str:
    return f"`{reason.value}`" if reason is not None else "none"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names) if names else "none"


def _undecided(bundle: Bundle, results: Iterable[Result]) -> tuple[str, ...]:
    decided: Counter[str] = Counter()
    for result in results:
        decided.update(result.policies)
        decided.update(name.partition(":")[2] for name in result.shadow)
    return tuple(policy.id for policy in bundle.policies if not decided[policy.id])


def _now_ns(case: Case) -> int:
    return int((case.request.time or DEFAULT_TIME).timestamp()) * 10**9


def _percents(given: CasePercents | None) -> Percents | None:
    return None if given is None else Percents(given.org, given.team, given.user, given.key)
