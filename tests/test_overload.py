"""More than can be decided, at the real sidecar: a flood is shed with a 503, the other team is not, the books are right."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path
from typing import Final

from authz.envoy.wire import check_pb2
from authz.listening import Listen
from authz.server import Sidecar
from authz.transport.frames import Kind, window_update
from demo.stack import listens
from tests.place import Place, opened
from tests.transport.peer import HEADERS, Peer, hello, parse

FLOOD: Final = 300
OTHERS: Final = 5
ROOM: Final = 40
_PATIENT: Final = (*HEADERS[:-1], ("grpc-timeout", "60S"))


def check(place: Place, secret: str, model: str) -> bytes:
    request = place.request(secret, model)
    made = check_pb2.CheckRequest()
    http = made.attributes.request.http
    http.method, http.path, http.raw_body = request.method, request.path, request.body or b""
    http.headers.update(dict(request.headers))
    return made.SerializeToString()


class Talk:
    """One connection to the sidecar, as Envoy has one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.peer = reader, writer, Peer()
        self._received, self._streams = b"", itertools.count(1, 2)
        writer.write(hello() + self.peer.acknowledge() + window_update(0, 2**30))

    async def ask(self, *checks: bytes) -> list[check_pb2.CheckResponse]:
        """All at once; their answers in order."""
        streams = [next(self._streams) for _ in checks]
        self.writer.write(b"".join(self.peer.call(at, check, _PATIENT) for at, check in zip(streams, checks, strict=True)))
        bodies: dict[int, bytes] = {}
        async with asyncio.timeout(60):
            while len(bodies) < len(streams):
                self._received += await self.reader.read(1_000_000)
                whole = self._whole()
                bodies |= {each.stream: each.payload for each in parse(self._received[:whole]) if each.kind == Kind.DATA}
                self._received = self._received[whole:]
        return [check_pb2.CheckResponse.FromString(bodies[at][5:]) for at in streams]

    def _whole(self) -> int:
        """How many of the received bytes are whole frames."""
        at = 0
        while at + 9 <= len(self._received):
            size = int.from_bytes(self._received[at : at + 3])
            if at + 9 + size > len(self._received):
                break
            at += 9 + size
        return at


def reason(answer: check_pb2.CheckResponse) -> str:
    return str(dict(answer.dynamic_metadata).get("reason", ""))


async def overload(place: Place, listen: Listen) -> tuple[list[str], list[str], str]:
    """Why each of the flood, each of the other team, and one that comes afterwards was denied; empty for an allow."""
    flooding, other = place.issue("chatbot-prod"), place.issue("research-lab")
    sidecar = Sidecar(place.engine, listen)
    serving = asyncio.create_task(sidecar.serve())
    end = time.monotonic() + 20
    while not listens(listen.check_socket):
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
    talk = Talk(*await asyncio.open_unix_connection(listen.check_socket))
    flood = [check(place, flooding, "llama-3.1-8b-instant")] * FLOOD
    answers = await talk.ask(*flood, *[check(place, other, "llama-3.3-70b-versatile")] * OTHERS)
    shed = [answer for answer in answers if reason(answer) == "overloaded"]
    for answer in shed:
        assert answer.denied_response.status.code == 503
        said = {option.header.key: option.header.value for option in answer.denied_response.headers}
        assert said["retry-after"] == "1"
    (after,) = await talk.ask(flood[0])
    talk.writer.close()
    sidecar.stop()
    await asyncio.wait_for(serving, 20)
    reasons = [reason(answer) for answer in answers]
    return reasons[:FLOOD], reasons[FLOOD:], reason(after)


def test_a_flood_is_shed_and_the_other_team_is_served(tmp_path: Path) -> None:
    listen = Listen(socket=str(tmp_path / "s.sock"), queue=ROOM, drain_s=0.0, grace_s=1.0)
    with opened(tmp_path) as place:
        flood, others, after = asyncio.run(overload(place, listen))
        assert others == [""] * OTHERS
        assert after == "", "it recovers at once"
        assert set(flood) == {"", "overloaded"}
        assert flood.count("overloaded") > FLOOD // 4
        held = sum(why == "" for why in flood) + OTHERS + 1
        assert place.engine.store.balances() == place.engine.store.replay()
    lines = (tmp_path / "decisions.jsonl").read_text().splitlines()
    assert len(lines) == FLOOD + OTHERS + 1, "what is shed is recorded like any other"
    assert sum('"effect":"allow"' in line for line in lines) == held
    assert sum('"reason":"overloaded"' in line for line in lines) == flood.count("overloaded")
