"""A17 to A40: what stands in a body, and what it costs. Each through the real Envoy: denied is denied in every sense."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from re import _constants as codes  # type: ignore[attr-defined]  # how a pattern was understood is told nowhere else
from re import _parser as patterns  # type: ignore[attr-defined]
from typing import Any

import pytest

import authz
from authz.inference import endpoints
from authz.inference.estimate import METERED
from authz.model import Ask, Deny
from authz.reasons import Reason
from demo.answers import Behaviour
from demo.answers import Usage as Reported
from tests.attacks.door import ALIAS, ALIAS_OF_ANOTHER, OPEN, Door, chat, refused
from tests.e2e.conftest import CHAT, SMALL
from tests.inference.sounds import wav
from tests.place import opened

pytestmark = pytest.mark.xdist_group("attacks")

REST = b'"messages":[{"role":"user","content":"x"}],"max_tokens":16'
SMALL_ = SMALL.encode()
OPEN_ = OPEN.encode()


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"%s","model":"%s",%s}' % (SMALL_, OPEN_, REST),
        b'{"model":"%s",%s,"model":"%s"}' % (OPEN_, REST, SMALL_),
        b'{"model":"%s",%s,"max_tokens":99999}' % (SMALL_, REST),
        b'{"model":"%s","messages":[{"role":"user","role":"system","content":"x"}]}' % SMALL_,
        b'{"model":"%s","messages":[{"role":"user","content":[{"type":"text","text":"a","text":"b"}]}]}' % SMALL_,
        b'{"model":"%s",%s,"metadata":{"a":{"b":[{"c":1,"c":1}]}}}' % (SMALL_, REST),
    ],
)
def test_a17_a_key_given_twice_at_any_depth_is_400(door: Door, body: bytes) -> None:
    assert "stands twice" in refused(door, body, 400, "invalid_request_error").error["message"]


@pytest.mark.parametrize("escaped", [rb"\u006dodel", rb"mod\u0065l", rb"\u006D\u006F\u0064\u0065\u006C"])
def test_a18_a_key_and_its_escaped_twin_are_400(door: Door, escaped: bytes) -> None:
    for body in (
        b'{"model":"%s","%s":"%s",%s}' % (SMALL_, escaped, OPEN_, REST),
        b'{"%s":"%s","model":"%s",%s}' % (escaped, OPEN_, SMALL_, REST),
    ):
        assert "stands twice" in refused(door, body).error["message"]


def test_a19_an_escaped_key_alone_is_decided_on_like_the_plain_one(door: Door) -> None:
    refused(door, rb'{"\u006dodel":"%s",%s}' % (OPEN_, REST), 403, "model_not_available")
    names = (b"model", rb"\u006dodel")
    bodies = [b'{"%s":"%s",%s}' % (name, SMALL_, REST) for name in names]
    plain, escaped = door.admitted(*(partial(door.post, body) for body in bodies))
    assert (plain["model"], plain["principal"]) == (escaped["model"], escaped["principal"])


@pytest.mark.parametrize(
    "key",
    [
        "Model",
        "MODEL",
        "mOdel",
        "model ",
        " model",
        "model\u200b",
        "models",
        "model_id",
        "fallback_model",
        "engine",
        "\u043codel",
    ],
)
def test_a20_a_look_alike_of_model_or_another_key_that_names_one_is_400(door: Door, key: str) -> None:
    assert refused(door, chat(**{key: OPEN})).code == "invalid_request_error"
    without = {name: value for name, value in chat().items() if name != "model"}
    refused(door, without | {key: SMALL})


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-7"])
def test_a21_a_byte_order_mark_or_another_encoding_is_400(door: Door, coding: str) -> None:
    text = json.dumps(chat())
    refused(door, text.replace("{", "+AHs-").encode() if coding == "utf-7" else text.encode(coding))


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e400", "nan", "+1", "01", ".5", "0x10"]
)
def test_a22_numbers_that_are_none_are_400(door: Door, number: str) -> None:
    for key in ("temperature", "max_completion_tokens"):
        refused(door, b'{"model":"%s",%s,"%s":%s}' % (SMALL_, REST, key.encode(), number.encode()))


@pytest.mark.parametrize("digits", [17, 30, 5_000, 300_000])
def test_a23_integers_of_many_digits_are_400(door: Door, digits: int) -> None:
    for key in (b"seed", b"max_completion_tokens"):
        refused(door, b'{"model":"%s",%s,"%s":%s}' % (SMALL_, REST, key, b"9" * digits))


@pytest.mark.parametrize("deep", [64, 65, 1_000, 100_000, 500_000])
def test_a24_nesting_above_64_is_400(door: Door, deep: int) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        nested = opening * (deep // len(opening)) + b"1" + closing * (deep // len(opening))
        if deep // len(opening) >= 64:
            body = b'{"model":"%s",%s,"metadata":%s}' % (SMALL_, REST, nested)
            assert "nested deeper" in refused(door, body).error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"%s",%s,"user":"\xff"}' % (SMALL_, REST),
        b'{"model":"%s",%s,"user":"\xc0\xaf"}' % (SMALL_, REST),
        rb'{"model":"%s",%s,"user":"\ud800"}' % (SMALL_, REST),
        rb'{"model":"%s",%s,"user":"\udc00\ud800"}' % (SMALL_, REST),
        rb'{"model":"%s",%s,"us\u0000er":"x"}' % (SMALL_, REST),
        b'{"model":"%s",%s,"us\x00er":"x"}' % (SMALL_, REST),
        b'{"model":"%s",%s}{"model":"%s"}' % (SMALL_, REST, OPEN_),
        b'{"model":"%s",%s}\x00' % (SMALL_, REST),
        b'{"model":"%s",%s}//' % (SMALL_, REST),
        b'{"model":"%s",%s,}' % (SMALL_, REST),
        b"{'model':'%s',%s}" % (SMALL_, REST),
    ],
)
def test_a25_bad_utf8_lone_surrogates_nul_and_trailing_data_are_400(door: Door, body: bytes) -> None:
    refused(door, body, 400, "invalid_request_error")


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "x-gzip", "identity, gzip", "gzip;q=0", ""])
def test_a26_any_content_encoding_is_415(door: Door, coding: str) -> None:
    refused(door, chat(), 415, "unsupported_media_type", content_encoding=coding)


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "application/json; charset=utf-7",
        "application/json; charset=latin1",
        "application/json; charset=utf-8; charset=utf-16",
        "application/json, text/plain",
        "application/jsonp",
        "application/vnd.api+json",
    ],
)
def test_a27_a_content_type_that_can_be_read_in_two_ways_is_415(door: Door, kind: str) -> None:
    refused(door, chat(), 415, "unsupported_media_type", content_type=kind)


B = "bOundary"
TRANSCRIBE = "/openai/v1/audio/transcriptions"


def part(name: str, content: bytes, more: str = "") -> bytes:
    return f'--{B}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"


MODEL, FILE, END = part("model", b"whisper-large-v3"), part("file", wav(1), '; filename="a.wav"'), f"--{B}--\r\n".encode()
OTHER = part("model", b"whisper-large-v3-turbo")


@pytest.mark.parametrize(
    "body",
    [
        MODEL + OTHER + FILE + END,
        OTHER + FILE + MODEL + END,
        part("Model", b"whisper-large-v3-turbo") + MODEL + FILE + END,
        b"preamble\r\n" + MODEL + FILE + END,
        MODEL + FILE + END + OTHER + END,
        MODEL + FILE + f"--{B} \r\n".encode() + OTHER[len(B) + 4 :] + END,
        (MODEL + OTHER + FILE + END).replace(b"\r\n", b"\n"),
        MODEL + FILE,
        part("model", b"whisper-large-v3\r\n--" + B.encode() + b"x") + FILE + END,
        MODEL.replace(b'name="model"', b"name*=utf-8''model") + FILE + END,
        part("file", wav(1), '; filename="a\\"; name=\\"model"') + MODEL + END,
    ],
)
def test_a28_two_models_or_tricks_with_boundaries_in_a_form_are_400(door: Door, body: bytes) -> None:
    form = {"key": "media", "path": TRANSCRIBE, "content_type": f"multipart/form-data; boundary={B}"}
    with door.untouched():
        door.denied(door.post(body, **form), 400, "invalid_request_error")
    assert door.post(MODEL + FILE + END, **form).status == 200
    with door.untouched():
        for kind in (
            f"multipart/form-data; boundary={B}; boundary=x",
            "multipart/form-data",
            'multipart/form-data; boundary=""',
        ):
            door.denied(door.post(MODEL + FILE + END, **form | {"content_type": kind}), 415)


@pytest.mark.parametrize(
    "model",
    [
        f"groq/{SMALL}",
        f"openai:{SMALL}",
        f"{SMALL}:free",
        f"{SMALL} ",
        f" {SMALL}",
        f"{SMALL}\n",
        f"{SMALL}\u200b",
        SMALL.upper(),
        SMALL.replace("a", "\u0430"),
        SMALL.replace("-", "\u2010"),
        f"{SMALL}/../{OPEN}",
        f"{SMALL},{OPEN}",
        "*",
        "Model::x",
    ],
)
def test_a29_a_model_is_its_exact_name_and_an_alias_is_authorised_with_what_it_stands_for(door: Door, model: str) -> None:
    refused(door, chat(model=model), 404, "model_not_found")
    with door.untouched():
        for wrong in ([SMALL], {"id": SMALL}, None, 1, True, ""):
            door.denied(door.ask(model=wrong), 400, "invalid_request_error")
        for alias in (ALIAS, ALIAS_OF_ANOTHER):  # of two names one alone is permitted
            door.denied(door.ask(model=alias), 403, "model_not_available")
    (record,) = door.admitted(lambda: door.ask(model=ALIAS, key="media"))
    assert record["model"] == SMALL


@pytest.mark.parametrize(
    "fields",
    [
        {"compound_custom": {"models": {"answering_model": OPEN}}},
        {"compound_custom": {"models": {"reasoning_model": SMALL}, "tools": {"enabled_tools": ["web_search"]}}},
        {"fallback_models": [OPEN]},
        {"models": [SMALL, OPEN]},
        {"route": "fallback"},
        {"model": "groq/compound"},
        {"model": "compound-beta"},
    ],
)
def test_a30_every_model_that_a_request_names_is_authorised_or_it_is_denied(door: Door, fields: dict[str, Any]) -> None:
    with door.untouched():
        for key in ("chatbot-prod", "media"):  # to whom everything is permitted: nothing bounds what it would cost
            reply = door.ask(key=key, **fields)
            assert reply.status in (400, 403, 404)
            assert reply.error


@pytest.mark.parametrize(
    "fields",
    [
        {"service_tier": "performance"},
        {"service_tier": "priority"},
        {"service_tier": 1},
        {"search_settings": {"include_domains": ["a"]}},
        {"include_domains": ["a"]},
        {"documents": [{"text": "x"}]},
        {"tools": [{"type": "browser_search"}]},
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/x"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "file"}]}]},
    ],
)
def test_a31_what_has_no_price_is_denied_and_a_tier_with_one_is_priced(door: Door, fields: dict[str, Any]) -> None:
    refused(door, chat(**fields), 403, "model_not_priced")
    (record,) = door.admitted(lambda: door.ask(service_tier="flex"))
    assert record["estimate"]["at_most"]["spend"] > 0
    form = MODEL + FILE + part("url", b"https://evil.example/a.wav") + END
    kind = f"multipart/form-data; boundary={B}"
    refused(door, form, 403, "model_not_priced", path=TRANSCRIBE, key="media", content_type=kind)


@pytest.mark.parametrize("n", [0, 2, 100, -1, 1.5, "1", True, [1], 2**40])
def test_a32_any_other_number_of_answers_than_one_is_400(door: Door, n: Any) -> None:
    refused(door, chat(n=n), 400, "invalid_request_error")


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens"])
def test_a33_a_ceiling_is_bounded_or_400_and_never_overflows(door: Door, key: str) -> None:
    with door.untouched():
        wrongs: tuple[Any, ...] = (-1, 0, 1.5, 1e3, True, "16", [16], {}, 2**31, 2**53, 10**15, 10**30)
        for wrong in wrongs:
            door.denied(door.ask(**{key: wrong}), 400, "invalid_request_error")
    most = {"max_tokens": None, "max_completion_tokens": None}
    for fields, bound in (
        (most, 131_072),
        (most | {key: 2**31 - 1}, 131_072),
        (most | {key: 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 9, "max_completion_tokens": 7}, 9),
    ):
        (record,) = door.admitted(partial(door.ask, key="media", **fields))
        assert record["estimate"]["at_most"]["output_tokens"] == bound, fields


def test_a34_a_model_without_a_price_is_denied(door: Door, tmp_path: Path) -> None:
    with door.untouched():
        for model in ("gpt-4o", "deepseek-r1", "playai-tts"):  # in no price book of ours, whoever asks
            door.denied(door.ask(model=model, key="media"), 404, "model_not_found")
        door.denied(door.ask(model="whisper-large-v3", key="media"), 403, "model_not_priced")
        door.denied(door.ask(model="nomic-embed-text-v1_5", key="media"), 403, "model_not_priced")
    with opened(tmp_path) as place:
        models = tmp_path / "policies/models.yaml"
        row = '    price: {input: "0.05", output: "0.08"}\n'
        assert row in models.read_text()
        models.write_text(models.read_text().replace(row, ""))
        assert place.engine.source.refresh()
        decision = place.engine.pdp.decide(place.request(place.issue("chatbot-prod")))
        assert isinstance(decision, Deny)
        assert decision.reason is Reason.MODEL_NOT_PRICED
        assert place.engine.store.balances() == {}


LINE = b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":%s}' % json.dumps(chat()).encode()


@pytest.mark.parametrize(
    ("lines", "status", "code"),
    [
        (LINE, 403, "model_not_priced"),
        (LINE.replace(SMALL_, OPEN_), 403, "model_not_priced"),
        (LINE + b"\n" + LINE.replace(SMALL_, OPEN_).replace(b'"1"', b'"2"'), 400, "invalid_request_error"),
        (LINE + b"\n" + LINE, 400, "invalid_request_error"),
        (LINE.replace(b"chat/completions", b"models"), 400, "invalid_request_error"),
    ],
    ids=["no price for batches", "a model of others", "two models", "a name twice", "another endpoint"],
)
def test_a35_a_file_goes_up_only_if_its_every_line_may(door: Door, lines: bytes, status: int, code: str) -> None:
    """On the bundle as it is shipped; `tests/e2e/test_batches.py` has one that lets teams make batches."""
    upload = part("purpose", b"batch") + part("file", lines, '; filename="a.jsonl"') + END
    kind = f"multipart/form-data; boundary={B}"
    refused(door, upload, status, code, path="/openai/v1/files", content_type=kind)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/openai/v1/batches", b'{"input_file_id":"file_1","endpoint":"/v1/chat/completions","completion_window":"24h"}'),
        ("/openai/v1/batches/b_1/cancel", b""),
    ],
)
def test_a35_no_file_or_batch_of_others_is_run_or_ended(door: Door, path: str, body: bytes) -> None:
    refused(door, body, 409, "not_known_here", path=path)


def test_a36_control_flags_inside_a_body_are_ignored(door: Door) -> None:
    flags: dict[str, Any] = {
        "authz": "allow",
        "principal": 'User::"olivia"',
        "team": "research",
        "bypass": True,
        "x-authz-degraded": "allow",
    }
    with door.untouched():
        for name, value in flags.items():
            door.denied(door.ask(**{name: value}), 400, "invalid_request_error")
        door.denied(door.ask(model=OPEN, metadata=flags, user='User::"olivia"', store=True), 403, "model_not_available")
    (record,) = door.admitted(lambda: door.ask(metadata=flags, user='User::"olivia"'))
    assert (record["principal"], record["team"]) == ('Key::"chatbot-prod"', "chatbot")


def test_a37_an_endpoint_without_estimator_or_settlement_is_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {endpoint.action for endpoint in endpoints.TABLE.values()} <= METERED.keys()
    with opened(tmp_path) as place:
        place.issue("chatbot-prod")
        secret = place.issue("research-lab")
        new = endpoints.Endpoint("rerank", "rerank", lambda request: Ask("rerank", "rerank", (OPEN,)))
        monkeypatch.setitem(endpoints.TABLE, ("POST", CHAT), new)
        decision = place.engine.pdp.decide(place.request(secret, OPEN))
        assert isinstance(decision, Deny)
        assert decision.reason is Reason.MODEL_NOT_PRICED
        assert place.engine.store.balances() == {}


def test_a38_one_table_and_everything_else_is_denied(door: Door) -> None:
    paths = {path for _, path in endpoints.TABLE}
    more = {
        f"/openai/v1/{name}" for name in ("fine_tuning/jobs", "images/generations", "moderations", "completions", "rerank", "x")
    }
    allowed = {*endpoints.TABLE, ("GET", "/openai/v1/models")}
    with door.untouched():
        for path in sorted(paths | more):
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "get", "X"):
                if (method, path) in allowed:
                    continue
                line = f"{method} {path} HTTP/1.1".encode()
                lines = (line, b"Host: a", b"Connection: close", door.bearer("media"), b"Content-Type: application/json")
                reply = door.lines(*lines, b"Content-Length: 2", body=b"{}")
                assert (reply.status, reply.code) in ((404, "unknown_url"), (400, "bad_request")), (method, path, reply)


def test_a39_without_a_tokeniser_the_bound_is_the_bodys_bytes(door: Door) -> None:
    overhead = 256  # of the model's template, in the price book
    for content in ("x" * 3_000, "\U0001f600" * 500, "\u00e4" * 999, " " * 2_000):
        body = json.dumps(chat(messages=[{"role": "user", "content": content}]), ensure_ascii=False).encode()
        (record,) = door.admitted(partial(door.post, body, key="media"))
        assert record["estimate"]["at_most"]["input_tokens"] == len(body) + overhead
    # As much as the body can hold, and the upstream counted all of it: posted in full and still within the bound.
    door.stack.groq.behave(Behaviour(usage=Reported(len(body) + overhead, 16)))
    (record,) = door.admitted(lambda: door.post(body, key="media"))
    assert 0 < door.settlement_of(record)["amounts"]["spend"] <= record["estimate"]["at_most"]["spend"]


def test_a40_no_regular_expression_of_ours_can_back_track() -> None:
    found = {pattern for path in Path(authz.__file__).parent.rglob("*.py") for pattern in literals(path.read_text())}
    assert len(found) > 10
    for pattern in found:
        parsed = patterns.parse(pattern)
        assert not list(ambiguous(parsed)), pattern
    for bad in (r"(a+)+b", r"(?:a|a?)*b", r"(?:x*)*", r"(\s*,\s*)*$", r"(?:(?:a{1,})?)+"):
        assert list(ambiguous(patterns.parse(bad))), f"this check would miss {bad}"


def literals(source: str) -> Iterator[str]:
    import ast

    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        of_re = isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
        if of_re and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
            yield node.args[0].value


def ambiguous(parsed: Any, inside: bool = False) -> Iterator[str]:
    """Unbounded repeats within unbounded repeats, which take exponential time: unless each round begins with a character that
    the inner ones cannot take, or the repeat is possessive and gives nothing back."""
    for op, given in parsed:
        if op in (codes.MAX_REPEAT, codes.MIN_REPEAT):
            low, high, inner = given
            unbounded = high == codes.MAXREPEAT
            if inside and (unbounded or low == 0):
                yield str(op)
            yield from ambiguous(inner, (inside or unbounded) and not separated(inner))
        elif op is codes.SUBPATTERN:
            yield from ambiguous(given[-1], inside)
        elif op is codes.BRANCH:
            for branch in given[1]:
                yield from ambiguous(branch, inside)
        elif op in (codes.POSSESSIVE_REPEAT, codes.ATOMIC_GROUP):
            continue


def separated(inner: Any) -> bool:
    sequence = list(inner)
    while len(sequence) == 1 and sequence[0][0] is codes.SUBPATTERN:
        sequence = list(sequence[0][1][-1])
    if not sequence or sequence[0][0] is not codes.LITERAL:
        return False
    first = chr(sequence[0][1])
    return not any(takes(each, first) for each in sequence[1:])


def takes(item: Any, character: str) -> bool:
    op, given = item
    if op is codes.LITERAL:
        return bool(chr(given) == character)
    if op is codes.IN:
        ranges = [(low, high) for kind, (low, high) in ((k, v) for k, v in given if k is codes.RANGE)]
        literals_ = [value for kind, value in given if kind is codes.LITERAL]
        others = [kind for kind, _ in given if kind not in (codes.RANGE, codes.LITERAL)]
        return bool(others) or ord(character) in literals_ or any(low <= ord(character) <= high for low, high in ranges)
    if op in (codes.MAX_REPEAT, codes.MIN_REPEAT):
        return any(takes(each, character) for each in given[2])
    return True
