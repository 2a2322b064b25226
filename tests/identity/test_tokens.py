"""Tokens of identity providers: what each shape of them means here, and everything that is no token (A51 to A56)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from authz.errors import ConfigError, Refused
from authz.identity.directory import Directory, read_directory
from authz.identity.jwks import FETCH_AGAIN_NS, MAX_BYTES, REFRESH_NS, FetchError, KeySets, fetch
from authz.identity.tokens import LEEWAY_S, TokenReader
from authz.identity.tokens import MAX_BYTES as MAX_TOKEN_BYTES
from authz.model import Principal, Uid
from authz.reasons import Reason
from authz.yamlfile import parse_yaml
from tests.identity.issuer import NOW_NS, NOW_S, Fetches, forged, jwk, key_set, private_key, serving, sign

JWKS = "https://acme.okta.com/oauth2/default/v1/keys"
TENANT = "8c8b3c2e-0000-4000-8000-000000000000"
CHATBOT_GROUP = "5f2d7c1a-0000-4000-8000-000000000001"
DIRECTORY = f"""
organisation: {{id: acme}}
roles: {{developer: {{}}, owner: {{}}}}
teams: {{chatbot: {{}}, research: {{}}, closed: {{disabled: true}}}}
users:
  okta.ada@acme.example: {{teams: [research], roles: [owner]}}
  okta.gone@acme.example: {{teams: [chatbot], disabled: true}}
  google.gil@acme.example: {{teams: [chatbot], roles: [developer]}}
issuers:
  okta:
    issuer: https://acme.okta.com/oauth2/default
    jwks_uri: {JWKS}
    audience: [api://authz, api://other]
    algorithms: [RS256, ES256]
    claims: {{user: sub, groups: [groups]}}
    prefix: okta.
    groups:
      LLM-Chatbot: {{teams: [chatbot], roles: [developer]}}
      LLM-Research: {{teams: [research]}}
      LLM-Closed: {{teams: [closed]}}
  entra:
    issuer: https://login.microsoftonline.com/{TENANT}/v2.0
    jwks_uri: https://login.microsoftonline.com/{TENANT}/discovery/v2.0/keys
    audience: [11111111-0000-4000-8000-000000000000]
    claims: {{user: oid, groups: [groups, roles]}}
    require: {{tid: {TENANT}, ver: "2.0"}}
    prefix: entra.
    groups:
      {CHATBOT_GROUP}: {{teams: [chatbot]}}
      LLM.Developer: {{roles: [developer]}}
  google:
    issuer: https://accounts.google.com
    jwks_uri: https://www.googleapis.com/oauth2/v3/certs
    audience: [1234.apps.googleusercontent.com]
    claims: {{user: email}}
    require: {{hd: acme.example}}
    prefix: google.
"""
OKTA: dict[str, Any] = {
    "ver": 1,
    "jti": "AT.x",
    "iss": "https://acme.okta.com/oauth2/default",
    "aud": "api://authz",
    "iat": NOW_S,
    "exp": NOW_S + 3600,
    "cid": "0oa1",
    "uid": "00u1",
    "scp": ["openid"],
    "sub": "bo@acme.example",
    "groups": ["Everyone", "LLM-Chatbot"],
}
ENTRA: dict[str, Any] = {
    "aud": "11111111-0000-4000-8000-000000000000",
    "iss": f"https://login.microsoftonline.com/{TENANT}/v2.0",
    "iat": NOW_S,
    "nbf": NOW_S,
    "exp": NOW_S + 4000,
    "groups": [CHATBOT_GROUP, "22222222-0000-4000-8000-000000000000"],
    "oid": "7a6b5c4d-0000-4000-8000-000000000002",
    "roles": ["LLM.Developer"],
    "sub": "pairwise",
    "tid": TENANT,
    "ver": "2.0",
}
GOOGLE: dict[str, Any] = {
    "iss": "https://accounts.google.com",
    "azp": "1234.apps.googleusercontent.com",
    "aud": "1234.apps.googleusercontent.com",
    "sub": "110169484474386276334",
    "hd": "acme.example",
    "email": "gil@acme.example",
    "email_verified": True,
    "iat": NOW_S,
    "exp": NOW_S + 3600,
}
KEY = private_key("k1")
EC_KEY = private_key("k2", "EC")


def directory(text: str = DIRECTORY) -> Directory:
    return read_directory(parse_yaml(text, "directory.yaml"), ZoneInfo("UTC"))


class Desk:
    """A reader of tokens with fetched keys, and the fetches that it made."""

    def __init__(self, *keys: dict[str, Any], text: str = DIRECTORY) -> None:
        self.keys = keys or (jwk("k1", KEY), jwk("k2", EC_KEY, "ES256"))
        self.fetches = Fetches(lambda: key_set(*self.keys))
        self.key_sets = KeySets(self.fetches)
        self.reader = TokenReader(self.key_sets, max_cached=100)
        self.directory = directory(text)
        self.refresh(NOW_NS)

    def refresh(self, now_ns: int) -> None:
        self.key_sets.refresh(self.directory.issuers.values(), now_ns)

    def identify(self, token: str, *team: str, now_ns: int = NOW_NS) -> Principal | None:
        return self.reader.identify(token, team, self.directory, now_ns)


@pytest.fixture(scope="module")
def shared() -> Desk:
    """For tests that only ask."""
    return Desk()


def test_a_token_is_recognised_once_it_has_been_verified() -> None:
    desk = Desk()
    token = sign(OKTA, KEY)
    assert desk.reader.recognise(token) == ""
    desk.identify(token)
    assert "okta.bo@acme.example" in desk.reader.recognise(token)
    assert desk.reader.recognise(token + "x") == ""


def test_an_okta_token_is_its_user_in_the_team_of_its_group(shared: Desk) -> None:
    found = shared.identify(sign(OKTA, KEY))
    uid = Uid("User", "okta.bo@acme.example")
    assert found == Principal(uid, Uid("Org", "acme"), Uid("Team", "chatbot"), uid, (Uid("Role", "developer"),))


def test_an_entra_token_is_named_by_object_id_with_groups_and_app_roles(shared: Desk) -> None:
    found = shared.identify(sign(ENTRA, KEY))
    assert found is not None
    assert found.uid == Uid("User", f"entra.{ENTRA['oid']}")
    assert (found.team, found.roles) == (Uid("Team", "chatbot"), (Uid("Role", "developer"),))
    assert shared.identify(sign(ENTRA | {"tid": "another"}, KEY)) is None
    assert shared.identify(sign(ENTRA | {"ver": "1.0"}, KEY)) is None
    overage = {name: value for name, value in ENTRA.items() if name != "groups"} | {"_claim_names": {"groups": "src1"}}
    assert shared.identify(sign(overage, KEY)) is None, "too many groups to be in the token are none, and so is the team"


def test_a_google_token_is_a_user_whom_the_directory_lists(shared: Desk) -> None:
    found = shared.identify(sign(GOOGLE, KEY))
    assert found is not None
    assert (found.uid, found.team) == (Uid("User", "google.gil@acme.example"), Uid("Team", "chatbot"))
    for change in (
        {"email": "eve@acme.example"},
        {"email_verified": False},
        {"email_verified": "true"},
        {"email_verified": None},
        {"hd": "evil.example"},
    ):
        assert shared.identify(sign(GOOGLE | change, KEY)) is None
    consumer = {name: value for name, value in GOOGLE.items() if name != "hd"}
    assert shared.identify(sign(consumer, KEY)) is None


def test_a_user_of_several_teams_has_to_choose_one_and_can_choose_no_other(shared: Desk) -> None:
    token = sign(OKTA | {"groups": ["LLM-Chatbot", "LLM-Research"]}, KEY)
    with pytest.raises(Refused) as caught:
        shared.identify(token)
    assert caught.value.reason is Reason.INVALID_REQUEST
    assert "`chatbot`, `research`: name one in `OpenAI-Project`" in caught.value.message
    chosen = shared.identify(token, "research")
    assert chosen is not None
    assert chosen.team == Uid("Team", "research")
    for team in (("closed",), ("analytics",), ("",), ("research", "research"), ("research", "chatbot")):
        assert shared.identify(token, *team) is None
    alone = sign(OKTA, KEY)
    assert shared.identify(alone, "chatbot") == shared.identify(alone)
    assert shared.identify(alone, "research") is None


def test_a_row_of_the_directory_adds_and_takes_away(shared: Desk) -> None:
    ada = shared.identify(sign(OKTA | {"sub": "ada@acme.example", "groups": "LLM-Chatbot"}, KEY), "research")
    assert ada is not None
    assert [role.id for role in ada.roles] == ["owner", "developer"]
    assert shared.identify(sign(OKTA | {"sub": "gone@acme.example"}, KEY)) is None
    assert shared.identify(sign(OKTA | {"groups": ["LLM-Closed"]}, KEY)) is None
    assert shared.identify(sign(OKTA | {"groups": []}, KEY)) is None


def test_an_issuer_cannot_name_anothers_user(shared: Desk) -> None:
    """Google says `okta.ada@acme.example`; here that is `google.okta.ada…`, and nobody."""
    assert shared.identify(sign(GOOGLE | {"email": "okta.ada@acme.example"}, KEY)) is None


Attack = Callable[[], str]
PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
EVIL = private_key("evil")


def _hs256_with(secret: bytes, kid: str = "k1") -> str:
    import hashlib
    import hmac

    unsigned = forged({"alg": "HS256", "kid": kid, "typ": "JWT"}, OKTA).rsplit(".", 1)[0]
    import base64

    mac = hmac.new(secret, unsigned.encode(), hashlib.sha256).digest()
    return f"{unsigned}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in OKTA.items() if key != name}


ATTACKS: dict[str, Attack] = {
    "alg none": lambda: forged({"alg": "none", "kid": "k1"}, OKTA),
    "alg None": lambda: forged({"alg": "None", "kid": "k1"}, OKTA),
    "alg empty": lambda: forged({"alg": "", "kid": "k1"}, OKTA),
    "alg missing": lambda: forged({"kid": "k1"}, OKTA),
    "alg a list": lambda: forged({"alg": ["RS256"], "kid": "k1"}, OKTA),
    "the public key as a shared secret": lambda: _hs256_with(PEM),
    "no secret at all": lambda: _hs256_with(b""),
    "an algorithm that the issuer does not use": lambda: sign(OKTA, KEY, algorithm="PS256"),
    "an algorithm that the key is not for": lambda: sign(OKTA, KEY, algorithm="RS512"),
    "another kind of key": lambda: sign(OKTA, EC_KEY, algorithm="ES256", kid="k1"),
    "somebody else's key": lambda: sign(OKTA, EVIL),
    "a key in the token": lambda: sign(OKTA, EVIL, jwk=jwk("k1", EVIL)),
    "a key in the token and no id": lambda: sign(OKTA, EVIL, kid=None, jwk=jwk("k1", EVIL)),
    "an address in the token": lambda: sign(OKTA, EVIL, jku="https://evil.example/keys", x5u="https://evil.example/cert"),
    "a certificate in the token": lambda: sign(OKTA, EVIL, x5c=["MIIB"]),
    "no key id": lambda: sign(OKTA, KEY, kid=None),
    "a path as key id": lambda: sign(OKTA, EVIL, kid="../../../../dev/null"),
    "SQL as key id": lambda: sign(OKTA, EVIL, kid="k1' UNION SELECT 'x"),
    "a key id that is no text": lambda: forged({"alg": "RS256", "kid": 1}, OKTA, b"x" * 256),
    "an unknown extension": lambda: sign(OKTA, KEY, crit=["exp2"], exp2=1),
    "an extension that only says it is there": lambda: sign(OKTA, KEY, crit=[]),
    "an unencoded payload": lambda: sign(OKTA, KEY, crit=["b64"], b64=True),
    "no audience": lambda: sign(without("aud"), KEY),
    "no issuer": lambda: sign(without("iss"), KEY),
    "no expiry": lambda: sign(without("exp"), KEY),
    "another audience": lambda: sign(OKTA | {"aud": "api://authz.evil"}, KEY),
    "an audience that is no text": lambda: sign(OKTA | {"aud": [1]}, KEY),
    "an empty list of audiences": lambda: sign(OKTA | {"aud": []}, KEY),
    "an unknown issuer": lambda: sign(OKTA | {"iss": "https://evil.example"}, KEY),
    "an issuer with a slash more": lambda: sign(OKTA | {"iss": OKTA["iss"] + "/"}, KEY),
    "an issuer that is no text": lambda: forged({"alg": "RS256", "kid": "k1"}, OKTA | {"iss": [OKTA["iss"]]}),
    "expired": lambda: sign(OKTA | {"exp": NOW_S}, KEY),
    "expired long ago": lambda: sign(OKTA | {"exp": 1}, KEY),
    "an expiry that is no number": lambda: forged({"alg": "RS256", "kid": "k1"}, OKTA | {"exp": "never"}),
    "an expiry in words, signed": lambda: sign(OKTA | {"exp": "9999999999"}, KEY),
    "an expiry that is true": lambda: sign(OKTA | {"exp": True}, KEY),
    "an expiry beyond all time": lambda: sign(OKTA | {"exp": 10**30}, KEY),
    "not yet": lambda: sign(OKTA | {"nbf": NOW_S + LEEWAY_S + 1}, KEY),
    "from the future": lambda: sign(OKTA | {"iat": NOW_S + LEEWAY_S + 1}, KEY),
    "a beginning that is no number": lambda: sign(OKTA | {"nbf": "now"}, KEY),
    "no user": lambda: sign(without("sub"), KEY),
    "a user who is no text": lambda: sign(OKTA | {"sub": 7}, KEY),
    "an empty user": lambda: sign(OKTA | {"sub": ""}, KEY),
    "a user that Cedar would read": lambda: sign(OKTA | {"sub": 'ada"; User::"olivia'}, KEY),
    "a user with a line end": lambda: sign(OKTA | {"sub": "ada\nolivia"}, KEY),
    "a user of another script": lambda: sign(OKTA | {"sub": "аda"}, KEY),
    "a very long user": lambda: sign(OKTA | {"sub": "a" * 200}, KEY),
    "no signature": lambda: sign(OKTA, KEY).rsplit(".", 1)[0] + ".",
    "half a signature": lambda: sign(OKTA, KEY)[:-100],
    "another payload under a good signature": lambda: _swapped(sign(OKTA, KEY), sign(OKTA | {"sub": "ada@acme.example"}, EVIL)),
    "two parts": lambda: sign(OKTA, KEY).rsplit(".", 1)[0],
    "four parts": lambda: sign(OKTA, KEY) + ".x",
    "five parts": lambda: sign(OKTA, KEY) + ".x.y",
    "a payload that is a list": lambda: forged({"alg": "RS256", "kid": "k1"}, [1]),
    "a header that is nested": lambda: forged(b'{"alg":"RS256","kid":"k1","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}", OKTA),
    "too long": lambda: sign(OKTA | {"padding": "x" * MAX_TOKEN_BYTES}, KEY),
    "nothing": lambda: "",
    "dots": lambda: "..",
}


def _swapped(good: str, other: str) -> str:
    header, _, signature = good.split(".")
    return ".".join((header, other.split(".")[1], signature))


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_no_good_token_is_nobodys(shared: Desk, attack: str) -> None:
    """A51, A53, A54, A56."""
    assert shared.identify(ATTACKS[attack]()) is None
    assert shared.identify(sign(OKTA, KEY)) is not None, "and after it a good one is as good as before"


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=200))
def test_no_text_at_all_makes_it_fall_over(text: str) -> None:
    desk = _fuzzed()
    assert desk.identify(text) is None
    assert desk.identify(f"{text}.{text}.{text}") is None


_FUZZED: list[Desk] = []


def _fuzzed() -> Desk:
    if not _FUZZED:
        _FUZZED.append(Desk())
    return _FUZZED[0]


def test_several_audiences_and_another_algorithm_of_the_issuer(shared: Desk) -> None:
    assert shared.identify(sign(OKTA | {"aud": ["x", "api://other"]}, KEY)) is not None
    assert shared.identify(sign(OKTA, EC_KEY, kid="k2", algorithm="ES256")) is not None


def test_a_token_is_remembered_by_all_of_itself_and_never_beyond_its_end() -> None:
    """A55."""
    desk = Desk()
    token = sign(OKTA, KEY)
    assert desk.identify(token) is not None
    assert len(desk.reader) == 1
    for changed in (token[:-2] + ("AA" if token[-2:] != "AA" else "BB"), token[:-1], token + "="):
        assert desk.identify(changed) is None, "the same claims under another signature"
    end_ns = OKTA["exp"] * 10**9
    assert desk.identify(token, now_ns=end_ns - 1) is not None
    assert desk.identify(token, now_ns=end_ns) is None
    assert len(desk.reader) == 0


def test_what_is_remembered_takes_bounded_memory() -> None:
    desk = Desk(jwk("k2", EC_KEY, "ES256"))
    for number in range(150):
        assert desk.identify(sign(OKTA | {"jti": str(number)}, EC_KEY, kid="k2", algorithm="ES256")) is not None
    assert len(desk.reader) == 100


def test_a_key_that_the_issuer_withdraws_is_out_of_force_with_what_was_remembered() -> None:
    desk = Desk()
    token = sign(OKTA, KEY)
    assert desk.identify(token) is not None
    desk.keys = (jwk("k2", EC_KEY, "ES256"),)
    desk.refresh(NOW_NS + REFRESH_NS)
    assert desk.identify(token, now_ns=NOW_NS + 1) is None


def test_an_issuer_that_is_put_back_vouches_only_with_the_keys_that_it_has_then() -> None:
    desk = Desk()
    token = sign(OKTA, KEY)
    assert desk.identify(token) is not None
    desk.key_sets.refresh((), NOW_NS)
    desk.keys = (jwk("k2", EC_KEY, "ES256"),)
    desk.refresh(NOW_NS)
    assert desk.identify(token) is None


def test_a_changed_directory_counts_at_once_for_what_is_remembered() -> None:
    desk = Desk()
    token = sign(OKTA, KEY)
    assert desk.identify(token) is not None
    for old, new in (
        ("  okta.gone", "  okta.bo@acme.example: {teams: [], disabled: true}\n  okta.gone"),
        ("[api://authz, api://other]", "[api://other]"),
        ("claims: {user: sub, groups: [groups]}", "claims: {user: uid, groups: [scp]}"),
        ("LLM-Chatbot: {teams: [chatbot]", "LLM-Chatbots: {teams: [chatbot]"),
    ):
        assert old in DIRECTORY
        changed = directory(DIRECTORY.replace(old, new))
        assert desk.reader.identify(token, (), changed, NOW_NS) is None, new
    gone = directory(DIRECTORY.split("issuers:")[0])
    assert desk.reader.identify(token, (), gone, NOW_NS) is None
    assert desk.identify(token) is not None


# The keys


def test_a_storm_of_unknown_key_ids_is_one_fetch_a_minute() -> None:
    """A52."""
    desk = Desk()
    before = desk.fetches.uris.count(JWKS)
    for second in range(180):
        for number in range(20):
            assert desk.identify(sign(OKTA, KEY, kid=f"unknown-{second}-{number}")[:-1]) is None
        desk.refresh(NOW_NS + second * 10**9)
    assert desk.fetches.uris.count(JWKS) - before == 2
    assert desk.identify(sign(OKTA, KEY)) is not None


def test_a_new_key_of_the_issuer_is_found_by_the_first_token_that_names_it() -> None:
    desk = Desk(jwk("k2", EC_KEY, "ES256"))
    token = sign(OKTA, KEY)
    assert desk.identify(token) is None
    desk.keys = (jwk("k1", KEY), jwk("k2", EC_KEY, "ES256"))
    assert desk.identify(token) is None, "a decision does not wait for it"
    desk.refresh(NOW_NS + FETCH_AGAIN_NS)
    assert desk.identify(token) is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"keys":[]}',
        b'{"keys":[{"kid":"k1"}]}',
        b'{"keys":{}}',
        b"\xff",
        b'{"keys":' + b"[" * 100_000,
        key_set(*[{"kid": "k"}] * 101),
        None,
    ],
)
def test_keys_stay_when_the_issuer_fails_or_answers_nonsense(body: bytes | None, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()

    def answer() -> bytes:
        if body is None:
            raise FetchError("timeout")
        return body

    desk.fetches.answer = answer
    with caplog.at_level(logging.ERROR):
        desk.refresh(NOW_NS + REFRESH_NS)
    assert {record.alert for record in caplog.records} == {"jwks"}  # type: ignore[attr-defined]
    assert desk.identify(sign(OKTA, KEY)) is not None
    desk.refresh(NOW_NS + REFRESH_NS + FETCH_AGAIN_NS - 1)
    assert desk.fetches.uris.count(JWKS) == 2


def test_before_the_first_fetch_a_token_is_nobodys() -> None:
    reader = TokenReader(KeySets(Fetches(lambda: b"")))
    assert reader.identify(sign(OKTA, KEY), (), directory(), NOW_NS) is None


@pytest.mark.parametrize(
    ("row", "signed"),
    [
        (jwk("k1", KEY, use="enc"), lambda: sign(OKTA, KEY)),
        (jwk("k1", KEY, alg="RS512"), lambda: sign(OKTA, KEY)),
        (jwk("k1", KEY, alg="HS256"), lambda: _hs256_with(PEM)),
        ({"kty": "oct", "kid": "k1", "k": "c2VjcmV0", "alg": "HS256"}, lambda: _hs256_with(b"secret")),
        ({"kty": "oct", "kid": "k1", "k": "c2VjcmV0"}, lambda: _hs256_with(b"secret")),
        (jwk("k1", private_key("short", "short")), lambda: sign(OKTA, private_key("short", "short"))),
    ],
)
@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits")
def test_a_key_is_only_for_what_it_says(row: dict[str, Any], signed: Attack) -> None:
    desk = Desk(row, jwk("k2", EC_KEY, "ES256"))
    assert desk.identify(signed()) is None
    assert desk.identify(sign(OKTA, EC_KEY, kid="k2", algorithm="ES256")) is not None


def test_a_key_without_an_algorithm_is_for_those_of_the_issuer_that_fit_it() -> None:
    bare = {name: value for name, value in jwk("k1", KEY).items() if name not in ("alg", "use")}
    desk = Desk(bare)
    assert desk.identify(sign(OKTA, KEY)) is not None
    assert desk.identify(sign(OKTA, KEY, algorithm="PS256")) is None


# Fetching


@pytest.fixture
def server() -> Iterator[Any]:
    with serving(key_set(jwk("k1", KEY))) as found:
        yield found


def test_a_fetch_is_one_answer_of_one_address(server: Any) -> None:
    assert fetch(server.url) == server.answer[2]
    assert server.paths == ["/keys"]


@pytest.mark.parametrize(
    ("status", "headers", "body", "problem"),
    [
        (302, {"location": "/elsewhere"}, b"", "status 302"),
        (301, {"location": "https://evil.example/keys"}, b"", "status 301"),
        (404, {}, b"", "status 404"),
        (500, {}, b"", "status 500"),
        (200, {}, b" " * (MAX_BYTES + 1), "more than"),
    ],
)
def test_a_fetch_follows_nothing_and_reads_no_more_than_it_must(
    server: Any, status: int, headers: dict[str, str], body: bytes, problem: str
) -> None:
    server.answer = (status, headers, body)
    with pytest.raises(FetchError, match=problem):
        fetch(server.url)
    assert server.paths == ["/keys"]


@pytest.mark.parametrize(
    "uri", ["http://keys.example/keys", "file:///etc/passwd", "ftp://127.0.0.1/keys", "http://localhost.evil/"]
)
def test_no_other_address_is_asked(uri: str) -> None:
    """A53."""
    with pytest.raises(FetchError, match="not an https address"):
        fetch(uri)


def test_an_issuer_that_cannot_be_reached_is_an_error_in_words() -> None:
    with serving(b"") as gone:
        pass
    with pytest.raises(FetchError, match="ConnectError"):
        fetch(gone.url)


# The directory's rows


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("[RS256, ES256]", "[RS256, HS256]", "algorithm `HS256`, expected one of `RS256`"),
        ("[RS256, ES256]", "[none]", "algorithm `none`"),
        ("[RS256, ES256]", "[]", "length >= 1"),
        ("[api://authz, api://other]", "[]", "length >= 1"),
        ("    audience: [api://authz, api://other]\n", "", "missing required field `audience`"),
        (JWKS, "http://acme.okta.com/keys", "expected an address that begins with `https://`"),
        (JWKS, "https://user:secret@acme.okta.com/keys", "expected an address that begins with `https://`"),
        (JWKS, "file:///etc/passwd", "expected an address that begins with `https://`"),
        ("prefix: google.", "prefix: okta.", "could be taken for those of"),
        ("prefix: google.", "prefix: okta.x.", "could be taken for those of"),
        ("    prefix: google.\n", "", "could be taken for those of"),
        ("prefix: google.", "prefix: 'google:'", "prefix `google:`, expected"),
        ("https://accounts.google.com\n", "https://acme.okta.com/oauth2/default\n", "is issuer `okta` already"),
        ("{teams: [chatbot], roles: [developer]}\n      LLM", "{teams: [chat]}\n      LLM", "unknown team `chat`"),
        ("{teams: [chatbot], roles: [developer]}\n      LLM", "{roles: [root]}\n      LLM", "unknown role `root`"),
        ("claims: {user: email}", "claims: {user: ''}", "length >= 1"),
        ("claims: {user: email}", "claims: {name: email}", "unknown field"),
    ],
)
def test_an_issuer_that_is_not_right_is_refused_with_its_place(old: str, new: str, problem: str) -> None:
    assert old in DIRECTORY
    with pytest.raises(ConfigError) as caught:
        directory(DIRECTORY.replace(old, new, 1))
    assert problem in caught.value.problem
    assert caught.value.line > 0


def test_plain_http_is_for_this_machine_only() -> None:
    directory(DIRECTORY.replace(JWKS, "http://127.0.0.1:1/keys"))
    directory(DIRECTORY.replace(JWKS, "http://[::1]:1/keys"))
