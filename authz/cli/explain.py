"""`authz explain`: why a request is answered as it is."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from authz.cli import acting, options, show

if TYPE_CHECKING:
    from authz.bundle import Bundle
    from authz.model import Asked
    from authz.review.explain import Explanation
    from authz.settings import Settings

_HERE: Final = Path("authz.yaml")


@click.command()
@click.option("--bundle", "folder", type=click.Path(path_type=Path, file_okay=False), help="A bundle, with empty quotas.")
@click.option(
    "--config", "-c", type=click.Path(path_type=Path, dir_okay=False), help="Settings: their bundle and their quotas."
)
@click.option("--principal", help='Who asks: `Key::"chatbot-prod"`, or the name of a key.')
@click.option("--team", help="The team that a user acts in.")
@click.option("--action", default="chat", show_default=True)
@click.option("--model")
@click.option("--input-tokens", type=click.IntRange(0, 2**53 - 1), default=100, show_default=True)
@click.option("--max-output-tokens", type=click.IntRange(0, 2**53 - 1), default=100, show_default=True)
@click.option("--stream", is_flag=True)
@click.option("--tools", is_flag=True)
@click.option("--service-tier", default="on_demand", show_default=True)
@click.option("--source-ip", default="")
@click.option("--at", help="When, as ISO 8601 with an offset; now by default.")
@click.option("--record", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="A file of decision records.")
@click.option("--id", "decision_id", help="The decision in it, by the beginning of its id.")
@acting.as_user
@options.as_json
def explain(folder: Path | None, config: Path | None, user: str | None, as_json: bool, **request: object) -> None:
    """Say why a request is allowed or denied: by which policies, how much of each quota is left, what would be allowed instead.

    The request is described by options, or is a recorded decision (`--record FILE --id ID`). Nothing is charged. With settings
    it also shows what has been used, to whom the policies permit `usage.read`. Exit 1 where the answer is a denial.
    """
    from authz.review import gate
    from authz.review.explain import Explainer
    from authz.settings import read_settings
    from authz.store import open_store

    if folder is not None and config is not None:
        raise click.UsageError("give `--bundle` or `--config`, not both")
    if folder is None and config is None and not _HERE.exists():
        raise click.UsageError(f"there is no `{_HERE}` here: expected `--config FILE`, or `--bundle DIR` for empty quotas")
    settings = read_settings(config or _HERE) if folder is None else None
    bundle = gate.load(Path(settings.bundle) if settings is not None else folder or Path())
    asked = _asked(bundle, request)
    if settings is not None:
        _require(settings, bundle, user, asked)
    store = open_store(settings.store) if settings is not None else None
    try:
        explanation = Explainer(bundle, store).explain(asked)
    finally:
        if store is not None:
            store.close()
    if as_json:
        show.as_json(explanation)
    else:
        _print(explanation)
    show.leave(findings=explanation.effect == "deny")


def _require(settings: Settings, bundle: Bundle, user: str | None, asked: Asked) -> None:
    """Raises `NotPermitted` where they may not read what the principal has used."""
    from authz.administration import READ, of_whom

    administrator, principal = acting.administrator(settings, bundle, user, time.time_ns()), asked.principal
    whose = of_whom(bundle, principal.uid.id if principal.uid.type == "Key" else "", principal.team.id)
    administrator.require(READ, whose)


def _asked(bundle: Bundle, request: dict[str, object]) -> Asked:
    if request["record"] is not None:
        return _recorded(bundle, request)
    from authz.review.explain import Described, asked_of

    if not request["principal"] or not request["model"]:
        raise click.UsageError("expected `--principal` and `--model`, or `--record` and `--id`")
    described = Described(
        principal=str(request["principal"]),
        model=str(request["model"]),
        team=str(request["team"] or ""),
        action=str(request["action"]),
        input_tokens=_int(request["input_tokens"]),
        max_output_tokens=_int(request["max_output_tokens"]),
        stream=bool(request["stream"]),
        tools=bool(request["tools"]),
        service_tier=str(request["service_tier"]),
        source_ip=str(request["source_ip"]),
    )
    try:
        return asked_of(bundle, described, _moment_ns(request["at"]))
    except ValueError as error:
        raise click.UsageError(f"--principal: {error}") from None


def _recorded(bundle: Bundle, request: dict[str, object]) -> Asked:
    from authz.model import DecisionRecord
    from authz.review.recordfile import read_records
    from authz.review.replay import asked_of, principal_of, time_ns

    wanted, file = str(request["decision_id"] or ""), Path(str(request["record"]))
    decisions = (record for record in read_records([file]) if isinstance(record, DecisionRecord))
    found = next((record for record in decisions if wanted and record.decision_id.startswith(wanted)), None)
    if found is None:
        raise click.UsageError(f"--id: no decision in {file} begins with `{wanted}`")
    if found.principal is None or found.action is None:
        raise click.UsageError(f"--id: `{wanted}` was refused before it was known who asks for what: {found.message}")
    now_ns = time_ns(found.time)
    principal = principal_of(bundle, found, now_ns)
    if principal is None:
        raise click.UsageError(f"--id: the bundle has no {found.principal} in force at {found.time}")
    return asked_of(bundle, found, principal, now_ns)


def _int(value: object) -> int:
    assert isinstance(value, int)  # click made it one
    return value


def _moment_ns(text: object) -> int:
    if text is None:
        return time.time_ns()
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise click.UsageError(f"--at: found `{text}`, expected a time with an offset, like `2026-12-31T23:30:00+01:00`")
    return int(moment.timestamp()) * 10**9


def _print(explanation: Explanation) -> None:
    from rich.markup import escape

    from authz.answers import duration, usd
    from authz.model import Meter

    console = show.console()
    allowed = explanation.effect == "allow"
    reason = f" ({explanation.reason.value})" if explanation.reason else ""
    console.print(
        f"[{'green' if allowed else 'red'}]{explanation.effect}{reason}[/] {escape(explanation.principal)} "
        f"{escape(explanation.action)} {escape(explanation.model)}"
    )
    if explanation.message:
        console.print(f"  {escape(explanation.message)}")
    if explanation.estimate:
        cost = usd(explanation.estimate[Meter.SPEND])
        tokens = f"{explanation.estimate[Meter.INPUT_TOKENS]:,} tokens in, {explanation.estimate[Meter.OUTPUT_TOKENS]:,} out"
        console.print(f"  at most {tokens}, {cost} USD")
    for policy in explanation.policies:
        style = "dim" if policy.part == "does not apply" else "bold"
        console.print(f"\n[{style}]{policy.effect} {escape(policy.id)}: {policy.part}[/] {escape(policy.file)}:{policy.line}")
        console.print(escape(policy.text), style="dim")
    if explanation.quotas:
        table = show.table("quota", "scope", "limit", "used", "this request", "left before it", "resets in", title="Quotas")
        for shown in explanation.quotas:
            state = shown.state
            spend = state.meter is Meter.SPEND
            amounts = [usd(n) if spend else f"{n:,}" for n in (state.limit, state.used, state.requested, shown.left)]
            unit = "USD" if spend else state.meter.value
            limit = f"{amounts[0]} {unit}/{state.window}"
            days = f"{state.reset_s / 86_400:.1f} days" if state.reset_s > 2 * 86_400 else duration(state.reset_s)
            over = not state.enforced and state.used + state.requested > state.limit
            name = state.quota + ("" if state.enforced else " (shadow)")
            cells = (escape(name), escape(state.scope), limit, *amounts[1:], days)
            table.add_row(*cells, style="red" if shown.refuses else "yellow" if over else None)
        console.print(table)
    for way in explanation.instead:
        console.print(f"allowed instead: {escape(way)}")
