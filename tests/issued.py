"""Issued keys for tests: every change of one has its entry in the audit chain, here too."""

from __future__ import annotations

import random

from authz import audit
from authz.identity.issuing import Actor, Issuing
from authz.identity.keys import IssuedKey, KeyStore
from authz.model import Uid

ACTOR = Actor('User::"olivia"', "tester", "a test")


def put(store: KeyStore, *rows: IssuedKey) -> None:
    """Rows that are not kept yet."""
    key = rows[0].key if rows else ""
    act = audit.Act(
        at="2026-11-30T00:00:00Z", who=ACTOR.who, login=ACTOR.login, what="key.create", subject=str(Uid("Key", key))
    )
    assert store.change(*audit.following(audit.head(store), act), rows)


def revoke(store: KeyStore, digest: str, now_ns: int) -> bool:
    return issuing(store, now_ns).revoke(digest, ACTOR)


def issuing(store: KeyStore, now_ns: int, seed: int = 7) -> Issuing:
    return Issuing(store, clock=lambda: now_ns, choice=random.Random(seed).choice)
