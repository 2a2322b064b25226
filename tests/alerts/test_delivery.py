"""Alerts reach their webhooks over a real connection: once where nothing fails, and in the end where something does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from authz.alerts import Deliverer, Format, Webhook, WebhookError
from authz.alerts.deliverer import LEASE_NS, retry_s
from authz.alerts.webhooks import TIMEOUT_S
from authz.errors import StoreUnavailable
from authz.model import Meter
from authz.quota.ledger import Held
from authz.quota.windows import NS
from authz.store.sqlite import SqliteStore, open_store
from tests.alerts.hook import Hook
from tests.store.builders import NOW, actual, charge, hold
from tests.store.places import FilePlace

SHORT_S = 0.5
"""For what is meant to run out; whatever is meant to arrive has all the time that a busy machine needs."""


@pytest.fixture
def hook() -> Iterator[Hook]:
    found = Hook()
    yield found
    found.close()


@pytest.fixture
def file() -> Iterator[FilePlace]:
    found = FilePlace()
    yield found
    found.close()


@pytest.fixture
def store() -> Iterator[SqliteStore]:
    found = open_store("sqlite:///:memory:")
    yield found
    found.close()


def reach(store: SqliteStore, amount: int = 100, *, counter: str = "spend") -> None:
    wanted = hold(charge(Meter.SPEND, 1, 1_000 * NS, counter, alerts=(100, 250)))
    assert isinstance(store.reserve(wanted, NOW), Held)
    store.settle(wanted.id, actual(spend=amount), NOW)


class Told:
    def __init__(self) -> None:
        self.attempts: list[bool] = []

    def __call__(self, taken: bool) -> None:
        self.attempts.append(taken)


def deliverer(
    store: SqliteStore,
    *hooks: Hook,
    told: Told | None = None,
    format: Format = Format.GENERIC,
    timeout_s: float = TIMEOUT_S,
) -> Deliverer:
    webhooks = [Webhook.at(hook.url, format) for hook in hooks]
    return Deliverer(store, webhooks, clock=lambda: NOW, told=told or Told(), timeout_s=timeout_s)


def test_an_alert_is_posted_once(store: SqliteStore, hook: Hook) -> None:
    told = Told()
    delivery = deliverer(store, hook, told=told)
    assert delivery.tick(NOW) == 0
    reach(store)
    assert [delivery.tick(NOW + step * LEASE_NS) for step in range(4)] == [1, 0, 0, 0]
    (got,) = hook.got
    assert (got["quota"], got["organisation"], got["period"]) == ("q-spend", "acme", "month")
    assert hook.headers[0]["content-type"] == "application/json"
    assert hook.headers[0]["idempotency-key"] == got["id"]
    assert told.attempts == [True]


def test_slack_gets_what_slack_takes(store: SqliteStore, hook: Hook) -> None:
    reach(store)
    deliverer(store, hook, format=Format.SLACK).tick(NOW)
    assert [*hook.got[0]] == ["text"]


@pytest.mark.parametrize("failure", [500, 404, 429, "hang", "reset", "drip", "redirect"])
def test_what_fails_is_tried_again_until_it_is_taken(
    store: SqliteStore, hook: Hook, failure: int | str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told = Told()
    patient = deliverer(store, hook, told=told)
    delivery = deliverer(store, hook, told=told, timeout_s=SHORT_S) if failure in ("hang", "drip") else patient
    reach(store)
    hook.answers.extend([failure, failure])
    assert delivery.tick(NOW) == 0
    pause_s = 77 if failure == 429 else 5
    assert delivery.tick(NOW + pause_s * NS - 1) == 0
    assert told.attempts == [False]
    assert delivery.tick(NOW + pause_s * NS) == 0
    hook.answers.clear()
    assert patient.tick(NOW + 200 * NS) == 1
    assert patient.tick(NOW + 10_000 * NS) == 0
    assert told.attempts == [False, False, True]
    assert len({got["id"] for got in hook.got}) == 1
    assert all(got == hook.got[0] for got in hook.got)
    assert [record.attempts for record in caplog.records if hasattr(record, "attempts")] == [1, 2]
    assert "made-up-secret" not in caplog.text + "".join(str(vars(record)) for record in caplog.records)


def test_nobody_there_is_tried_again(store: SqliteStore, hook: Hook) -> None:
    told = Told()
    delivery = deliverer(store, hook, told=told)
    hook.close()
    reach(store)
    assert delivery.tick(NOW) == 0
    assert told.attempts == [False]


def test_a_webhook_that_hangs_does_not_keep_another_from_its_own(store: SqliteStore, hook: Hook) -> None:
    other = Hook()
    try:
        reach(store, 300)
        hook.answers.extend(["hang", "hang"])
        assert deliverer(store, hook, other, timeout_s=3 * SHORT_S).tick(NOW) == 2
        assert len(other.got) == 2
    finally:
        other.close()


def test_two_processes_tell_it_once(file: FilePlace, hook: Hook) -> None:
    stores = [file.open(), file.open()]
    for number in range(20):
        reach(stores[0], counter=f"c{number}")
    webhook = Webhook.at(hook.url, Format.GENERIC)
    deliverers = [Deliverer(store, [webhook], clock=lambda: NOW, told=Told()) for store in stores]
    with ThreadPoolExecutor(2) as pool:
        taken = sum(pool.map(lambda turn: deliverers[turn % 2].tick(NOW), range(8)))
    ids = [got["id"] for got in hook.got]
    assert taken == len(ids) == len(set(ids)) == 20


class Dies(Exception):
    """Stands for the end of the process."""


def test_who_dies_between_the_post_and_the_mark_leaves_it_to_the_next(file: FilePlace, hook: Hook) -> None:
    class Dying(SqliteStore):
        def delivered(self, target: str, alert: str, now_ns: int) -> None:
            raise Dies

    store = file.open()
    reach(store)
    dying = Dying(store._decisions.options)
    with pytest.raises(Dies):
        deliverer(dying, hook).tick(NOW)
    dying.close()
    file.crash()
    alive = deliverer(file.open(), hook)
    assert alive.tick(NOW + LEASE_NS - 1) == 0
    assert alive.tick(NOW + LEASE_NS) == 1
    first, second = hook.got
    assert first == second  # told twice, under one id: at least once is what was promised


def test_the_thread_delivers_and_survives_a_store_that_is_gone(
    store: SqliteStore, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("authz.alerts.deliverer.TICK_S", 0.01)
    reach(store, 300)
    failures = [StoreUnavailable("made up")]
    claim = store.claim_alerts

    def claim_later(target: str, now_ns: int, lease_ns: int, at_most: int) -> object:
        if failures:
            raise failures.pop()
        return claim(target, now_ns, lease_ns, at_most)

    monkeypatch.setattr(store, "claim_alerts", claim_later)
    told = Told()
    with deliverer(store, hook, told=told):
        while len(told.attempts) < 2:
            hook.leave.wait(0.01)
    assert told.attempts == [True, True]


def test_pauses_grow_and_end() -> None:
    assert [retry_s(attempts) for attempts in (1, 2, 3, 8, 9, 1_000)] == [5, 10, 20, 640, 900, 900]


@pytest.mark.parametrize(
    "address",
    ["https://hooks.example/x", "http://127.0.0.1:80/x", "http://localhost/x", "http://[::1]:8080/", "https://user:pw@h/x?y=z"],
)
def test_addresses_that_are_taken(address: str) -> None:
    webhook = Webhook.at(address, Format.SLACK)
    assert webhook.url.reveal() == address
    assert webhook == Webhook.at(address, Format.SLACK)
    assert webhook.name != Webhook.at(address, Format.GENERIC).name
    assert address not in repr(webhook)
    assert "pw" not in webhook.name


@pytest.mark.parametrize(
    "address",
    ["", "hooks.example", "ftp://h/x", "http://hooks.example/x", "http://10.0.0.1/", "http://localhost.example/", "https://",
     "http://2130706433/", "https://h/a b", "https://h/\n", "https://ключ/", "file:///etc/passwd"],
)  # fmt: skip
def test_addresses_that_are_not(address: str) -> None:
    with pytest.raises(WebhookError, match=r"^found .*, expected") as error:
        Webhook.at(address, Format.GENERIC)
    assert len(address) < 9 or address not in str(error.value)
