"""What can be done, and to what: the one list of actions behind the data path, the console and the command line.

The schema of a bundle must declare every one of them as it stands here; `PolicyEngine` checks that when it is built.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from msgspec import Struct


class Kind(Enum):
    """Which context an action comes with."""

    INFERENCE = "inference"
    ADMIN = "admin"


class ActionSpec(Struct, frozen=True):
    """resources  the types of entity that the action can be done to"""

    resources: frozenset[str]
    kind: Kind


_MODEL: Final = ActionSpec(frozenset({"Model"}), Kind.INFERENCE)

PRINCIPALS: Final = ("Key", "User")

ACTIONS: Final[dict[str, ActionSpec]] = {
    "chat": _MODEL,
    "respond": _MODEL,
    "embed": _MODEL,
    "transcribe": _MODEL,
    "translate": _MODEL,
    "speak": _MODEL,
    "batch": _MODEL,
    "list_models": _MODEL,
    "usage.read": ActionSpec(frozenset({"Org", "Team", "User", "Key"}), Kind.ADMIN),
    "key.create": ActionSpec(frozenset({"Team"}), Kind.ADMIN),
    "key.rotate": ActionSpec(frozenset({"Key"}), Kind.ADMIN),
    "key.revoke": ActionSpec(frozenset({"Key"}), Kind.ADMIN),
    "budget.change": ActionSpec(frozenset({"Org", "Team", "User", "Key"}), Kind.ADMIN),
    "policy.publish": ActionSpec(frozenset({"Org"}), Kind.ADMIN),
}
