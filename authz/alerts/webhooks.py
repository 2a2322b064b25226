"""Where alerts are posted, and one attempt to post one.

An address may hold a secret, so it is never shown: not in a log, an error or a metric. TLS is verified, plain http goes to this
machine only, and a redirect is a failure: nothing is sent where the operator did not say.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
from enum import StrEnum
from typing import Final, assert_never

import httpx
import msgspec
from msgspec import Struct

from authz.alerts import messages
from authz.model import Secret
from authz.quota.ledger import Delivery

TIMEOUT_S: Final = 10.0
_MAX_PAUSE_S: Final = 3_600
_encode: Final = msgspec.json.Encoder().encode

for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # at INFO httpx writes every address that it calls


class Format(StrEnum):
    GENERIC = "generic"
    SLACK = "slack"


class WebhookError(ValueError):
    """An address that cannot be taken; says why without saying which."""


class Webhook(Struct, frozen=True):
    """name: what the store and the log call it, the same in every process and of no use to call it by."""

    name: str
    url: Secret
    format: Format

    @staticmethod
    def at(address: str, format: Format) -> Webhook:
        """Raises `WebhookError`."""
        try:
            url = httpx.URL(address)
        except (httpx.InvalidURL, TypeError):
            raise WebhookError("found something else, expected a web address") from None
        plain = address.isascii() and address.isprintable() and " " not in address
        if url.scheme not in ("https", "http") or not url.host or not plain:
            raise WebhookError("found something else, expected an address that begins with `https://`")
        if url.scheme == "http" and not _is_loopback(url.host):
            raise WebhookError("found plain http to another machine, expected https")
        name = hashlib.sha256(f"{format.value}\n{address}".encode()).hexdigest()[:12]
        return Webhook(f"{url.host}-{name}", Secret(address), format)


class Attempt(Struct, frozen=True):
    """How it went. `problem` is empty where it was taken; `pause_s` is how long the receiver asked to be left alone."""

    problem: str = ""
    pause_s: int = 0


async def post(client: httpx.AsyncClient, webhook: Webhook, delivery: Delivery, *, timeout_s: float = TIMEOUT_S) -> Attempt:
    """One attempt, over after `timeout_s` whatever the other side does. The answer's body is not read."""
    try:
        async with (
            asyncio.timeout(timeout_s),
            client.stream(
                "POST",
                webhook.url.reveal(),
                content=_body(webhook.format, delivery),
                headers={"content-type": "application/json", "idempotency-key": delivery.id},
                follow_redirects=False,
            ) as answer,
        ):
            if answer.is_success:
                return Attempt()
            return Attempt(f"status {answer.status_code}", _pause_s(answer))
    except TimeoutError:
        return Attempt("timeout")
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return Attempt(type(error).__name__)  # never its text: the address may stand in it


def _body(format: Format, delivery: Delivery) -> bytes:
    match format:
        case Format.GENERIC:
            return _encode(messages.generic(delivery))
        case Format.SLACK:
            return _encode(messages.slack(delivery))
        case _:
            assert_never(format)


def _pause_s(answer: httpx.Response) -> int:
    asked = answer.headers.get("retry-after", "")
    return min(int(asked), _MAX_PAUSE_S) if asked.isascii() and asked.isdigit() and len(asked) < 10 else 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
