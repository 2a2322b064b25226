"""Virtual keys, the bearer header, and who a credential stands for (A1, A8, A55 to A59)."""

from __future__ import annotations

import logging
import random
import sys
import tracemalloc
from collections.abc import Callable
from itertools import islice
from time import perf_counter_ns
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.errors import Refused, StoreUnavailable
from authz.identity import keys
from authz.identity.authentication import Authenticator, Identity
from authz.identity.credentials import KeyRing
from authz.identity.directory import Directory, read_directory
from authz.identity.failures import LIMIT, WINDOW_NS, Failures
from authz.identity.keys import IssuedKey, digest
from authz.model import Request, Secret, Uid
from authz.reasons import Reason
from authz.yamlfile import parse_yaml

_random = random.Random(1)
KEY, OTHER, THIRD, DECLARED = (keys.mint(_random.choice) for _ in range(4))
SPIFFE = "spiffe://acme.example/ns/prod/sa/chatbot"
DIRECTORY = f"""
organisation: {{id: acme}}
roles: {{developer: {{}}, intern: {{}}}}
teams: {{a: {{}}}}
users: {{}}
keys:
  plain: {{team: a}}
  roled: {{team: a, roles: [developer, intern], spiffe: ["{SPIFFE}"]}}
  stopped: {{team: a, disabled: true}}
  declared: {{team: a, digests: ["sha256:{digest(DECLARED)}"]}}
"""
NOW_NS = 10**18


def directory(text: str = DIRECTORY) -> Directory:
    return read_directory(parse_yaml(text, "directory.yaml"), ZoneInfo("UTC"))


def entry(number: int) -> bytes:
    """As much of an audit chain as a ring looks at: that it has grown."""
    return msgspec.json.encode(
        {"number": number, "previous": "", **dict.fromkeys(("at", "who", "login", "what", "subject"), "")}
    )


class Rows:
    """A store of issued keys that is a list."""

    def __init__(self, *rows: IssuedKey) -> None:
        self.rows = list(rows)
        self.noted: list[dict[str, int]] = []
        self.down = False

    def audit_since(self, number: int, at_most: int) -> tuple[bytes, ...]:
        return tuple(entry(each + 1) for each in range(len(self.rows)))[number : number + at_most]

    def audit_last(self) -> bytes:
        return entry(len(self.rows)) if self.rows else b""

    def keys_since(self, sequence: int, at_most: int = 2) -> tuple[IssuedKey, ...]:
        return tuple(row for row in self.rows if row.sequence > sequence)[:at_most]

    def note_uses(self, uses: dict[str, int]) -> None:
        if self.down:
            raise StoreUnavailable("down")
        self.noted.append(uses)


def ring(*rows: IssuedKey) -> KeyRing:
    found = KeyRing(Rows(*rows))  # type: ignore[arg-type]  # as much of a store as a ring needs
    found.refresh()
    return found


def request(*values: str, peer: str = "", source_ip: str = "10.0.0.1") -> Request:
    headers = tuple(("authorization", value) for value in values)
    return Request("POST", "/", headers, b"", source_ip=source_ip, peer=peer)


def identify(who: Authenticator, *values: str, now_ns: int = NOW_NS, peer: str = "", source_ip: str = "10.0.0.1") -> Identity:
    return who.identify(request(*values, peer=peer, source_ip=source_ip), directory(), now_ns)


def test_a_minted_key_has_its_shape_and_check_sum() -> None:
    assert keys.well_formed(KEY)
    assert KEY.startswith("authz_")
    assert len(KEY) == 46


def test_any_one_changed_character_breaks_the_check_sum() -> None:
    for position in range(len(KEY)):
        other = "x" if KEY[position] != "x" else "y"
        assert not keys.well_formed(KEY[:position] + other + KEY[position + 1 :])


def test_two_keys_differ() -> None:
    assert keys.mint(random.Random(2).choice) != KEY


def test_whose_turn_it_is_goes_by_the_team_and_strangers_share_one() -> None:
    who = Authenticator(ring(IssuedKey(digest(KEY), "plain", 1, sequence=1)))
    team = str(identify(who, f"Bearer {KEY}").principal.team)

    def recognised(*values: str, peer: str = "") -> str:
        return who.recognise(request(*values, peer=peer), directory(), NOW_NS)

    assert recognised(f"Bearer {KEY}") == team
    assert {recognised(), recognised("Bearer x"), recognised("Bearer \u00e9"), recognised(peer="spiffe://acme/nobody")} == {""}


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_one_bearer_token_is_who_it_was_issued_for(scheme: str) -> None:
    who = Authenticator(ring(IssuedKey(digest(KEY), "plain", 1, sequence=1)))
    assert identify(who, f"{scheme} {KEY}").principal.uid == Uid("Key", "plain")


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("",),
        (KEY,),
        (f"Basic {KEY}",),
        (f"Bearer {KEY}", f"Bearer {KEY}"),
        (f"Bearer {KEY},Bearer {KEY}",),
        (f"Bearer {KEY} ",),
        (f"Bearer  {KEY}",),
        ("Bearer ' OR 1=1 --",),
        ("Bearer {authz}:issued",),
        ("Bearer *",),
        ("Bearer gsk_somebody-elses-key",),
        ("Bearer a.b.c",),
        (f"Bearer {KEY}\u00e9",),
        (f"Bearer {KEY[:-1]}",),
        (f"Bearer {OTHER}",),
        (f"Bearer {digest(KEY)}",),
    ],
)
def test_every_other_credential_gets_the_one_answer(values: tuple[str, ...]) -> None:
    """A56, A57."""
    who = Authenticator(ring(IssuedKey(digest(KEY), "plain", 1, sequence=1)))
    with pytest.raises(Refused) as caught:
        identify(who, *values)
    assert (caught.value.reason, caught.value.message) == (Reason.INVALID_API_KEY, "Invalid API Key")


def test_the_ring_finds_what_is_in_force() -> None:
    rows = Rows(
        IssuedKey("a", "alpha", 1, sequence=1),
        IssuedKey("b", "beta", 1, expires_ns=100, sequence=2),
        IssuedKey("c", "gamma", 1, revoked_ns=5, sequence=3),
    )
    found = KeyRing(rows)  # type: ignore[arg-type]  # as above
    assert found.find("a", 50) is None
    found.refresh()
    assert [live.key if (live := found.find(name, 50)) else None for name in "abcd"] == ["alpha", "beta", None, None]
    assert found.find("b", 99) is not None
    assert found.find("b", 100) is None
    rows.rows.append(IssuedKey("a", "alpha", 1, revoked_ns=60, sequence=4))
    found.refresh()
    assert found.find("a", 50) is None


def test_a_replaced_secret_says_until_when_and_its_successor_does_not() -> None:
    until = NOW_NS + 10
    who = Authenticator(
        ring(
            IssuedKey(digest(KEY), "plain", 1, expires_ns=until, sequence=1, replaced_by=digest(OTHER)),
            IssuedKey(digest(OTHER), "plain", 1, sequence=2, replaces=digest(KEY)),
            IssuedKey(digest(THIRD), "plain", 1, expires_ns=until, sequence=3),
        )
    )
    old, new, ending = (identify(who, f"Bearer {secret}") for secret in (KEY, OTHER, THIRD))
    assert old.principal == new.principal
    assert (old.expires_ns, new.expires_ns, ending.expires_ns) == (until, 0, 0)
    with pytest.raises(Refused):
        identify(who, f"Bearer {KEY}", now_ns=until)


def test_fewer_roles_are_never_more_than_the_key_has_now() -> None:
    """A58."""
    who = Authenticator(
        ring(
            IssuedKey(digest(KEY), "roled", 1, NOW_NS + 5, sequence=1, roles=("developer", "owner")),
            IssuedKey(digest(OTHER), "roled", 1, sequence=2, roles=()),
            IssuedKey(digest(THIRD), "roled", 1, sequence=3, roles=("intern", "developer")),
        )
    )
    some, none, both = (identify(who, f"Bearer {secret}") for secret in (KEY, OTHER, THIRD))
    assert some.expires_ns == 0, "it expires, but nothing has replaced it"
    assert some.narrowed is not None
    assert none.narrowed is not None
    assert [role.id for role in some.narrowed.roles] == ["developer"]
    assert none.narrowed.roles == ()
    assert both.narrowed is None
    assert [role.id for role in some.principal.roles] == ["developer", "intern"]


def test_a_declared_secret_stands_for_its_key() -> None:
    assert identify(Authenticator(ring()), f"Bearer {DECLARED}").principal.uid == Uid("Key", "declared")


def test_a_verified_peer_stands_for_its_key_but_never_beside_a_bad_credential() -> None:
    who = Authenticator(ring())
    assert identify(who, peer=SPIFFE).principal.uid == Uid("Key", "roled")
    for values, peer in (
        ((f"Bearer {KEY}",), SPIFFE),
        (("Basic x",), SPIFFE),
        ((), SPIFFE + "/x"),
        ((), SPIFFE.upper()),
        ((), "roled"),
    ):
        with pytest.raises(Refused):
            identify(who, *values, peer=peer)


def test_uses_are_collected_and_told_once_and_again_after_a_failure() -> None:
    rows = Rows(IssuedKey(digest(KEY), "plain", 1, sequence=1))
    found = KeyRing(rows)  # type: ignore[arg-type]  # as above
    found.refresh()
    who = Authenticator(found)
    found.flush()
    assert rows.noted == []
    for now_ns in (NOW_NS, NOW_NS + 1):
        identify(who, f"Bearer {KEY}", now_ns=now_ns)
    with pytest.raises(Refused):
        identify(who, f"Bearer {OTHER}")
    rows.down = True
    with pytest.raises(StoreUnavailable):
        found.flush()
    rows.down = False
    identify(who, f"Bearer {DECLARED}", now_ns=5)
    found.flush()
    found.flush()
    assert rows.noted == [{digest(KEY): NOW_NS + 1, digest(DECLARED): 5}]


def test_many_uses_are_told_a_page_at_a_time_and_none_is_lost() -> None:
    rows = Rows()
    found = KeyRing(rows)  # type: ignore[arg-type]  # as above
    uses = {digest(str(number)): number for number in range(2 * keys.PAGE + 7)}
    for name, used_ns in uses.items():
        found.note(name, used_ns)
    room = iter((True, False))
    taken = rows.note_uses

    def some(page: dict[str, int]) -> None:
        assert len(page) <= keys.PAGE
        if not next(room, True):
            raise StoreUnavailable("down")
        taken(page)

    rows.note_uses = some  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreUnavailable):
        found.flush()
    found.flush()
    assert {name: used_ns for page in rows.noted for name, used_ns in page.items()} == uses
    assert sum(map(len, rows.noted)) == len(uses)


def test_a_source_that_goes_on_failing_is_told_to_stop_and_a_good_key_passes(caplog: pytest.LogCaptureFixture) -> None:
    """A59."""
    excess: list[int] = []
    issued = ring(IssuedKey(digest(KEY), "plain", 1, sequence=1))
    who = Authenticator(issued, excess=lambda: excess.append(1))

    def answer(source_ip: str, now_ns: int = NOW_NS) -> Reason:
        with pytest.raises(Refused) as caught:
            identify(who, f"Bearer {OTHER}", source_ip=source_ip, now_ns=now_ns)
        return caught.value.reason

    with caplog.at_level(logging.WARNING):
        answers = [answer("10.0.0.1") for _ in range(LIMIT + 5)]
    assert answers == [Reason.INVALID_API_KEY] * LIMIT + [Reason.RATE_LIMIT_EXCEEDED] * 5
    assert [record.alert for record in caplog.records] == ["invalid_credentials"]  # type: ignore[attr-defined]
    assert len(excess) == 5
    assert OTHER not in caplog.text
    assert answer("10.0.0.2") is Reason.INVALID_API_KEY
    assert identify(who, f"Bearer {KEY}", source_ip="10.0.0.1").principal.uid == Uid("Key", "plain")
    assert answer("10.0.0.1", NOW_NS + 2 * WINDOW_NS) is Reason.INVALID_API_KEY


def test_failures_take_bounded_memory_and_a_network_counts_as_one() -> None:
    """A59."""
    failures = Failures(limit=2, max_sources=100)
    for number in range(10_000):
        failures.count(f"10.{number >> 8}.{number & 255}.1", NOW_NS)
    assert len(failures) == 100
    assert [failures.count(f"2001:db8::{number:x}", NOW_NS)[0] for number in range(1, 4)] == [False, False, True]
    assert not failures.count("2001:db8:0:1::1", NOW_NS)[0]
    assert [failures.count(f"::ffff:192.0.2.{number}", NOW_NS)[0] for number in range(1, 6)] == [False] * 5, "they are of IPv4"
    for text in ("", "not an address", "1.2.3.4:80") * 10:
        assert failures.count(text, NOW_NS) == (False, False)


@given(st.lists(st.integers(0, 3 * WINDOW_NS), min_size=1, max_size=200))
def test_no_span_of_a_minute_has_more_failures_than_the_limit_lets_pass(offsets: list[int]) -> None:
    failures, limit = Failures(limit=5), 5
    passed = [at for at in sorted(offsets) if not failures.count("10.0.0.1", NOW_NS + at)[0]]
    for index in range(limit, len(passed)):
        assert passed[index] - passed[index - limit] > WINDOW_NS


def test_unknown_revoked_expired_and_disabled_take_like_time() -> None:
    """A57, as a ratio within one run: the fastest of many interleaved tries of each."""
    secrets = {name: keys.mint(_random.choice) for name in ("unknown", "revoked", "expired", "disabled", "orphaned")}
    who = Authenticator(
        ring(
            IssuedKey(digest(secrets["revoked"]), "plain", 1, revoked_ns=5, sequence=1),
            IssuedKey(digest(secrets["expired"]), "plain", 1, expires_ns=5, sequence=2),
            IssuedKey(digest(secrets["disabled"]), "stopped", 1, sequence=3),
            IssuedKey(digest(secrets["orphaned"]), "gone", 1, sequence=4),
        )
    )
    known = directory()
    asked = {name: request(f"Bearer {secret}") for name, secret in secrets.items()}
    best = dict.fromkeys(asked, sys.maxsize)
    for _ in range(300):
        for name, each in asked.items():
            start = perf_counter_ns()
            for _ in range(5):
                with pytest.raises(Refused):
                    who.identify(each, known, NOW_NS)
            best[name] = min(best[name], perf_counter_ns() - start)
    assert max(best.values()) < 1.5 * min(best.values()), best


def _look_up_ns(count: int) -> tuple[Callable[[], int], int]:
    """Times a hundred look-ups among `count` keys; and the bytes that each key takes."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    rows = (IssuedKey(digest(str(number)), f"key-{number % 500}", 1, sequence=number + 1) for number in range(count))

    class Stream:
        def audit_last(self) -> bytes:
            return entry(count)

        def keys_since(self, sequence: int) -> tuple[IssuedKey, ...]:
            return tuple(islice(rows, 1_000))

    found = KeyRing(Stream())  # type: ignore[arg-type]  # as above
    found.refresh()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    asked = [digest(str(number * count // 100)) for number in range(100)]

    def look() -> int:
        start = perf_counter_ns()
        for each in asked:
            assert found.find(each, NOW_NS) is not None
        return perf_counter_ns() - start

    return look, (after - before) // count


def test_a_look_up_costs_the_same_among_a_hundred_thousand_keys() -> None:
    few, _ = _look_up_ns(100)
    many, bytes_each = _look_up_ns(100_000)
    best_few, best_many = sys.maxsize, sys.maxsize
    for _ in range(300):
        best_few, best_many = min(best_few, few()), min(best_many, many())
    assert best_many < 3 * best_few  # what is left is the processor's cache
    assert bytes_each < 400


def test_a_secret_does_not_print() -> None:
    secret = Secret("gsk_canary")
    assert "canary" not in f"{secret} {secret!r}"
    assert secret.reveal() == "gsk_canary"
    assert secret == Secret("gsk_canary")
    assert secret != Secret("other")
