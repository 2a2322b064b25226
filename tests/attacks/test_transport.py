"""A1 to A16: what comes in before anybody has read a body, and who may talk to the sidecar at all."""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from click.testing import CliRunner

from authz.api import decisions, health
from authz.api.wire import decisions_pb2
from authz.cli import cli
from authz.envoy.inspection import inspect
from authz.envoy.wire import accesslog_pb2, check_pb2
from authz.errors import Refused
from authz.inference import endpoints
from authz.model import Request
from authz.quota.ledger import State
from authz.reasons import Reason
from authz.server import AUTHORIZATION
from demo.answers import Behaviour
from demo.stack import STAND_IN_KEY, wait_for
from tests.attacks.door import Door, chat
from tests.attacks.slow import serving
from tests.e2e.conftest import CHAT, SMALL
from tests.place import opened

pytestmark = pytest.mark.xdist_group("attacks")

BODY = json.dumps(chat()).encode()
POST = f"POST {CHAT} HTTP/1.1".encode()
USUAL = (b"Host: a", b"Content-Type: application/json", b"Connection: close")
LENGTH = b"Content-Length: %d" % len(BODY)


def check_of(door: Door, body: bytes, **headers: str) -> check_pb2.CheckRequest:
    """What Envoy would ask about this body."""
    check = check_pb2.CheckRequest()
    http = check.attributes.request.http
    http.method, http.path, http.raw_body, http.size = "POST", CHAT, body, len(body)
    named = door.headers("chatbot-prod") | {name.replace("_", "-"): value for name, value in headers.items()}
    for name, value in named.items():
        header = http.header_map.headers.add()
        header.key, header.raw_value = name, value.encode()
    return check


@pytest.mark.parametrize("name", [b"Authorization", b"authorization", b"AUTHORIZATION", b"aUTHORIZATION"])
def test_a1_upstream_sees_exactly_one_authorization_and_a_client_may_send_exactly_one(door: Door, name: bytes) -> None:
    secret = door.bearer().partition(b" ")[2]
    one, other = name + b": " + secret, b"authorization: " + secret
    with door.untouched():
        for credentials in ((), (one, other), (one, one), (name + b": " + secret + b"," + secret,), (name + b":",)):
            reply = door.lines(POST, *USUAL, *credentials, LENGTH, body=BODY, source=door.elsewhere())
            door.denied(reply, 401, "invalid_api_key")
    before = len(door.stack.groq.received())
    assert door.lines(POST, *USUAL, one, LENGTH, body=BODY).status == 200
    (received,) = door.forwarded(before)
    assert received.header("authorization") == (f"Bearer {STAND_IN_KEY}",)


def test_a2_a_check_from_another_user_of_the_machine_is_refused(door: Door) -> None:
    listen = door.stack.settings.listen
    sockets = [Path(path) for path in (listen.socket, listen.check_socket, door.stack.settings.envoy.admin_socket)]
    for path in sockets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        reach(path)
    if os.getuid() != 0:
        return  # only root can become somebody else to try it
    folder = door.stack.folder
    before = folder.stat().st_mode
    folder.chmod(0o755)  # so that it is the sockets' own mode that refuses
    try:
        with ThreadPoolExecutor(1) as pool:  # Linux keeps who opens files by thread, and this one ends here
            pool.submit(ctypes.CDLL(None).setfsuid, 65534).result()
            for path in sockets:
                with pytest.raises(PermissionError):
                    pool.submit(reach, path).result()
    finally:
        folder.chmod(before)


def reach(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as wire:
        wire.connect(str(path))


def test_a3_a_forged_access_log_entry_is_ignored_and_counted(door: Door) -> None:
    """Even by who has the socket: an entry counts only where it names a reservation by its random id."""
    (known,) = door.admitted(door.ask)
    door.settled()
    unknown = door.counted("authz_settlements_unknown_total")
    with door.untouched():
        guesses = ["0" * 32, "1", "", known["decision_id"], known["reservation_id"][:-1], f"{known['reservation_id']} "]
        entries = [entry(reservation) for reservation in guesses]
        entries += [entry("", request_id=request_id) for request_id in ("", "1", "0" * 36, known["reservation_id"])]
        entries.append(entry(known["reservation_id"]))  # of one that has ended: once more changes nothing
        door.report(*entries)
    named = sum(1 for reservation in guesses if reservation)
    assert door.counted("authz_settlements_unknown_total") == unknown + named


def entry(reservation: str, *, request_id: str = "") -> accesslog_pb2.HTTPAccessLogEntry:
    made = accesslog_pb2.HTTPAccessLogEntry()
    common = made.common_properties
    common.route_name = b"openai"
    common.time_to_first_upstream_tx_byte.nanos = 1
    common.metadata.filter_metadata["envoy.filters.http.ext_authz"]["reservation"] = reservation
    common.metadata.filter_metadata["groq.usage"]["usage"] = '{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}'
    made.request.request_id = request_id.encode()
    made.response.response_code.value = 200
    made.response.response_code_details = b"via_upstream"
    return made


def test_a4_bytes_that_are_not_utf8_are_denied_in_headers_and_in_bodies(door: Door) -> None:
    with door.untouched():
        for bad in (b"X-Any: \xff\xfe", b"X-Any: \xc3\x28", b"X-\xff: a", b"Content-Type: application/json; charset=\xff"):
            door.denied(door.lines(POST, b"Host: a", b"Connection: close", door.bearer(), bad, LENGTH, body=BODY), 400)
        for bad in (b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"):
            body = b'{"model":"%s","messages":[{"role":"user","content":"%s"}]}' % (SMALL.encode(), bad)
            door.denied(door.post(body), 400, "invalid_request_error")
        check = check_of(door, BODY)
        check.attributes.request.http.header_map.headers[0].raw_value = b"Bearer \xff"
        assert check.SerializeToString()
        assert door.check(check.SerializeToString()).denied_response.status.code == 400


def test_a5_a_partial_body_a_body_of_another_length_and_an_empty_one_are_denied(door: Door) -> None:
    with door.untouched():
        door.denied(door.lines(POST, *USUAL, door.bearer(), b"Content-Length: 0"), 400, "invalid_request_error")
        door.denied(door.lines(POST, *USUAL, door.bearer()), 400)
        for headers in ({"x_envoy_auth_partial_body": "true"}, {"content_length": "7"}, {"content_length": "1,1"}):
            answer = door.check(check_of(door, BODY, **headers).SerializeToString())
            assert answer.denied_response.status.code in (400, 413), headers
        longer = check_of(door, BODY)
        longer.attributes.request.http.size += 1
        as_text = check_of(door, b"")
        as_text.attributes.request.http.body = BODY.decode()
        for check in (longer, as_text):
            assert door.check(check.SerializeToString()).denied_response.status.code in (400, 413)


def test_a6_a_body_above_the_buffer_or_above_grpcs_limit_is_never_allowed(door: Door) -> None:
    large = json.dumps(chat(messages=[{"role": "user", "content": "x" * 1_048_600}])).encode()
    with door.untouched():
        door.denied(door.post(large), 413, "request_too_large")
        pieces = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (large[:600_000], large[600_000:])) + b"0\r\n\r\n"
        chunked = door.lines(POST, *USUAL, door.bearer(), b"Transfer-Encoding: chunked", body=pieces)
        door.denied(chunked, 413, "request_too_large")
        with pytest.raises(grpc.RpcError) as caught:
            door.check(check_of(door, b"x" * (64 * 1024 * 1024 + 1)).SerializeToString())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        above_grpcs_own = check_of(door, b"x" * (5 * 1024 * 1024))
        assert door.check(above_grpcs_own.SerializeToString()).denied_response.status.code == 400


CONTROL = {
    "x-envoy-auth-partial-body": "true",
    "x-envoy-original-path": "/openai/v1/models",
    "x-envoy-original-method": "GET",
    "x-envoy-max-retries": "9",
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-envoy-decorator-operation": "x",
    "x-envoy-force-trace": "true",
    "x-authz-subject": "olivia",
    "x-authz-degraded": "allow",
    "x-authz-reservation": "1",
    "x-forwarded-for": "203.0.113.9",
    "x-user-id": "olivia",
}


def test_a7_control_headers_of_a_clients_are_stripped_and_never_read(door: Door) -> None:
    before = len(door.stack.groq.received())
    lines = [f"{name}: {value}".encode() for name, value in CONTROL.items()]
    (record,) = door.admitted(lambda: door.lines(POST, *USUAL, door.bearer(), *lines, LENGTH, body=BODY))
    (received,) = door.forwarded(before)
    assert {name for name, _ in received.headers}.isdisjoint(CONTROL)
    assert (received.method, received.path) == ("POST", CHAT)
    assert (record["principal"], record["source_ip"]) == ('Key::"chatbot-prod"', "127.0.0.1")
    with door.untouched():
        for name in CONTROL:
            twin = f"{name.replace('-', '_')}: x".encode()
            door.denied(door.lines(POST, *USUAL, door.bearer(), twin, LENGTH, body=BODY), 400)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((b"Authorization: Bearer x,Bearer y",), 401),
        ((b"Authorization: Bearer x", b"Authorization: Bearer y"), 401),
        ((b"Content-Type: application/json,text/plain",), 415),
        ((b"Content-Type: application/json", b"Content-Type: application/json"), 415),
        ((b"Content-Encoding: identity, gzip",), 415),
        ((b"Content-Length: %d" % (len(BODY) + 1),), 400),
    ],
)
def test_a8_a_header_that_we_read_given_twice_or_joined_is_refused(door: Door, lines: tuple[bytes, ...], status: int) -> None:
    names = {line.split(b":")[0].lower() for line in lines}
    usual = [line for line in (*USUAL, door.bearer()) if line.split(b":")[0].lower() not in names - {b"host"}]
    with door.untouched():
        door.denied(door.lines(POST, *usual, *lines, LENGTH, body=BODY, source=door.elsewhere()), status)


def spellings() -> list[str]:
    """Of the chat's path: each trick at each of its places."""
    parts = CHAT.strip("/").split("/")
    made = set()
    for trick in (
        "..",
        "%2e%2e",
        "%2F",
        "%5c",
        ";",
        ";a=b",
        "%23",
        "%3f",
        "%00",
        "%20",
        "%0d%0a",
        "+",
        "*",
        "~",
        "%c0%af",
        "|",
        "@",
        "$",
        "!",
        ".",
    ):
        for place in range(len(parts) + 1):
            made.add("/" + "/".join([*parts[:place], trick, *parts[place:]]))  # as a segment
            if place < len(parts):
                made.add("/" + "/".join([*parts[:place], parts[place] + trick, *parts[place + 1 :]]))  # behind one
    made |= {CHAT + end for end in ("/", "//", "?", "?a=b", "??", "?%23", "/?", "/.", "/..", ".json", ":x", "&a", "%", "%zz")}
    made |= {CHAT.upper(), CHAT.title(), CHAT[1:], f"/x{CHAT}", f"http://a{CHAT}", f"//a{CHAT}", CHAT.replace("v1", "v2")}
    made |= {
        CHAT.replace("/", "//", 1),
        CHAT.replace("chat", "ch%61t"),
        CHAT.replace("o", "\u043e", 1),
        CHAT.replace("/", "\\"),
    }
    return sorted(made)


def test_a9_every_other_spelling_of_a_path_is_denied(door: Door) -> None:
    variants = spellings()
    assert len(variants) >= 200
    for path in variants:
        with pytest.raises(Refused) as caught:
            endpoints.read(Request("POST", path, (("content-type", "application/json"),), BODY))
        assert caught.value.reason is Reason.UNKNOWN_URL, path
    # Through Envoy some become the path itself before anybody looks: such a one is decided on and forwarded as that very path.
    same = []
    refused = json.dumps(chat(n=2)).encode()
    for path in variants:
        before = len(door.stack.groq.received())
        line = b"POST " + path.encode() + b" HTTP/1.1"
        reply = door.lines(line, *USUAL, door.bearer(), b"Content-Length: %d" % len(refused), body=refused)
        assert (reply.status, reply.code) in ((404, "unknown_url"), (400, "bad_request"), (400, "invalid_request_error")), path
        assert len(door.stack.groq.received()) == before
        if reply.code == "invalid_request_error":
            same.append(path)  # refused for its body: it was taken for the path itself
    tricks = ("%2f", "%5c", "%00", "%3f", "%23", ";", "#", "?", "+", "*", "~")
    assert not [path for path in same if any(trick in path.lower() for trick in tricks)]
    assert len(same) < 20


def test_a10_the_host_header_decides_nothing(door: Door) -> None:
    hosts = (b"api.groq.com", b"evil.example", b"localhost:9901", b"169.254.169.254", b"authz")
    before = len(door.stack.groq.received())
    for host in hosts:
        usual = (b"Host: " + host, *USUAL[1:])
        assert door.lines(POST, *usual, door.bearer(), LENGTH, body=BODY).status == 200
    assert {request.header("host") for request in door.forwarded(before)} == {("127.0.0.1",)}
    with door.untouched():
        for host in hosts:
            denied = door.lines(
                POST, b"Host: " + host, *USUAL[1:], b"Authorization: Bearer x", LENGTH, body=BODY, source=door.elsewhere()
            )
            door.denied(denied, 401, "invalid_api_key")


@pytest.mark.parametrize(
    "lines",
    [
        (b"CONNECT api.groq.com:443 HTTP/1.1",),
        (b"CONNECT 127.0.0.1:1 HTTP/1.1",),
        (b"GET /openai/v1/models HTTP/1.1", b"Upgrade: websocket", b"Connection: upgrade"),
        (POST, b"Upgrade: h2c", b"Connection: upgrade, http2-settings", b"HTTP2-Settings: AAMAAABk"),
        (b"DELETE /openai/v1/models/x HTTP/1.1",),
        (b"GET /openai/v1/chat/completions HTTP/1.1", b"X-HTTP-Method-Override: POST"),
        (b"PUT /openai/v1/chat/completions HTTP/1.1", b"X-Method-Override: POST"),
        (b"TRACE /openai/v1/models HTTP/1.1",),
        (b"OPTIONS * HTTP/1.1",),
        (b"PROPFIND /openai/v1/models HTTP/1.1",),
    ],
)
def test_a11_connect_upgrades_and_other_methods_are_denied(door: Door, lines: tuple[bytes, ...]) -> None:
    with door.untouched():
        reply = door.lines(
            *lines, b"Host: a", door.bearer("research-lab"), b"Content-Type: application/json", LENGTH, body=BODY
        )
        assert reply.status in (400, 403, 404, 405), reply
        assert reply.error


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"failure_mode_allow": True}, "failure_mode_allow"),
        ({"clear_route_cache": True}, "clear_route_cache"),
        (None, "disabled"),
    ],
    ids=["fails open", "another route", "off for a route"],
)
def test_a12_a_configuration_that_goes_round_us_is_refused(
    door: Door, tmp_path: Path, changes: dict[str, bool] | None, problem: str
) -> None:
    file = tmp_path / "envoy.json"
    config: Any = yaml.safe_load((door.stack.folder / "envoy.yaml").read_text())
    file.write_text(json.dumps(config))
    assert CliRunner().invoke(cli, ["check", "--envoy", str(file)]).exit_code == 0
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    if changes is not None:
        manager["http_filters"][0]["typed_config"] |= changes
    else:
        off = {"envoy.filters.http.ext_authz": {"disabled": True}}
        manager["route_config"]["virtual_hosts"][0]["routes"][-1]["typed_per_filter_config"] = off
    file.write_text(json.dumps(config))
    done = CliRunner().invoke(cli, ["check", "--envoy", str(file)])
    assert done.exit_code == 1
    assert problem in done.output


def test_a13_what_is_smuggled_in_does_not_reach_the_upstream(door: Door) -> None:
    """Content-Length with Transfer-Encoding, chunk extensions, a second request behind the first: what reaches the upstream is
    what was allowed, one for one."""
    hidden = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    with door.untouched():
        for length in (b"4", b"%d" % len(BODY)):
            lines = (POST, *USUAL, door.bearer(), b"Content-Length: " + length, b"Transfer-Encoding: chunked")
            assert door.lines(*lines, body=b"0\r\n\r\n" + hidden).status == 400
        for coding in (b"chunked, identity", b"xchunked", b"chunked\x0b", b"gzip, chunked", b"identity"):
            reply = door.lines(POST, *USUAL, door.bearer(), b"Transfer-Encoding: " + coding, body=b"0\r\n\r\n" + hidden)
            assert reply.status in (400, 501), reply
        assert door.lines(POST, *USUAL, door.bearer(), b"Transfer-Encoding : chunked", body=b"0\r\n\r\n" + hidden).status == 400
    began, before = datetime.now(UTC).isoformat(timespec="milliseconds"), len(door.stack.groq.received())
    extended = b"%x;a=b;Transfer-Encoding=x\r\n%s\r\n0;z\r\n\r\n" % (len(BODY), BODY)
    reply = door.lines(POST, *USUAL, door.bearer(), b"Transfer-Encoding: chunked", body=extended + hidden)
    assert reply.status in (200, 400)
    first = b"\r\n".join([POST, *USUAL[:2], door.bearer(), LENGTH, b"", b""]) + BODY
    last = b"\r\n".join([POST, *USUAL, door.bearer(), LENGTH, b"", b""]) + BODY
    assert door.all_of(first + first + last + hidden).count(b"HTTP/1.1 200 OK") == 3
    door.settled()
    forwarded = len(door.forwarded(before))
    assert len(door.allowed_since(began, forwarded)) == forwarded >= 3
    assert {request.body for request in door.forwarded(before)} == {BODY}


def test_a14_a_denial_is_an_answer_and_never_a_grpc_error(door: Door) -> None:
    everything: dict[bytes, int] = {
        b"": 401,
        b"\xff\xff\xff": 400,
        check_of(door, b"{").SerializeToString(): 400,
        check_of(door, BODY, authorization="Bearer x").SerializeToString(): 401,
        check_of(door, BODY.replace(SMALL.encode(), b"openai/gpt-oss-120b")).SerializeToString(): 403,
        check_of(door, BODY.replace(SMALL.encode(), b"nothing")).SerializeToString(): 404,
        check_of(door, BODY, content_encoding="br").SerializeToString(): 415,
    }
    with door.untouched():
        for raw, status in everything.items():
            answer = door.check(raw)  # an RPC error would be raised
            assert answer.denied_response.status.code == status
            assert answer.status.code == 7, "PERMISSION_DENIED, or Envoy would let it pass"
            assert json.loads(answer.denied_response.body)["error"]["code"]
            assert not answer.HasField("ok_response")


def test_a15_a_request_id_of_the_clients_names_nothing_of_ours(door: Door) -> None:
    line = b"X-Request-Id: 00000000-0000-4000-8000-000000000000"
    send = partial(door.lines, POST, *USUAL, door.bearer(), line, LENGTH, body=BODY)
    records = door.admitted(send, send)
    ids = {record["reservation_id"] for record in records}
    assert len(ids) == 2, "two requests hold twice, whatever they call themselves"
    assert all(re.fullmatch(r"[0-9a-f]{12}[0-9a-f]{32}", identity) for identity in ids), "a time, and what nobody can guess"
    assert not {record["request_id"] for record in records} & {"00000000-0000-4000-8000-000000000000", ""}
    # What is allowed once is sent once: no route tries again.
    assert inspect(door.stack.folder / "envoy.yaml") == ()
    before = len(door.stack.groq.received())
    door.stack.groq.behave(Behaviour(status=503))
    assert door.ask().status == 503
    assert len(door.forwarded(before)) == 1


@pytest.mark.parametrize("leaves", ["at its deadline", "by cancelling"])
@pytest.mark.parametrize("asked", ["Check", "Check on grpcio", "Decide"])
def test_a16_a_check_that_its_caller_gave_up_on_is_voided_or_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, leaves: str
) -> None:
    monkeypatch.setattr("authz.server._SLOW_S", 0.0)
    monkeypatch.setattr("authz.server._NOTICE_S", 0.5)  # for a machine that is busy
    with opened(tmp_path) as place:
        secret = place.issue("chatbot-prod")
        store = place.engine.store
        gone = threading.Event()
        with serving(place.engine, until=gone) as slow, grpc.insecure_channel(slow.address(asked == "Check")) as channel:
            method, raw = question(asked, secret)
            ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
            if leaves == "at its deadline":
                with pytest.raises(grpc.RpcError) as caught:
                    ask(raw, timeout=0.3)
                assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            else:
                call = ask.future(raw)
                wait_for("the reservation", lambda: bool(store.balances()))
                call.cancel()
                if asked == "Decide":  # its loop is free: what comes after on the same connection is answered after it is heard
                    after: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{health.SERVICE}/Check")
                    after(b"", timeout=10)
            gone.set()
            wait_for("the decision", lambda: bool(slow.reservations))
            (voided,) = slow.reservations
            wait_for("the void", lambda: state_of(store.find(voided)) is State.VOIDED)
        lost: Any = place.engine.pdp.decide(place.request(secret))
        place.time.pass_s(899)
        place.engine.tick()
        assert state_of(store.find(lost.reservation_id)) is State.PENDING
        place.time.pass_s(2)
        place.engine.tick()
        assert state_of(store.find(lost.reservation_id)) is State.EXPIRED
        assert store.balances() == store.replay()


def state_of(found: Any) -> State | None:
    return found.state if found is not None else None


def question(asked: str, secret: str) -> tuple[str, bytes]:
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    if asked.startswith("Check"):
        check = check_pb2.CheckRequest()
        http = check.attributes.request.http
        http.method, http.path, http.raw_body, http.size = "POST", CHAT, BODY, len(BODY)
        http.headers.update(headers)
        return f"/{AUTHORIZATION}/Check", check.SerializeToString()
    decide = decisions_pb2.DecideRequest()
    decide.request.method, decide.request.path, decide.request.body = "POST", CHAT, BODY
    for name, value in headers.items():
        decide.request.headers.add(name=name, value=value)
    return f"/{decisions.SERVICE}/Decide", decide.SerializeToString()
