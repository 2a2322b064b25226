"""Beyond capacity: what is shed, how soon, and what another tenant feels of it.

    python -m tests.chaos.overload --seconds 20

One tenant floods the socket that Envoy asks, from a program that is quicker than any sidecar, with Checks that its own rate
limit refuses: each costs a whole decision. Another tenant asks one thing at a time through Envoy, alone, then during the flood,
then after it. Both share this machine's processors with the flood itself, which is part of what the other tenant feels.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import quantiles
from typing import Final

import grpc
import httpx
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from authz.envoy.wire import check_pb2
from authz.settings import read_settings
from tests.chaos.faults import pause
from tests.chaos.fleet import Fleet, Kind, Plan
from tests.chaos.load import CHAT, Caller, Sent, send
from tests.chaos.schedule import SMALL

FLOODER: Final = shutil.which("h2load") or ""
SHED: Final = "overloaded"
_METHOD: Final = "/envoy.service.auth.v3.Authorization/Check"
_RAMP_S: Final = 0.3


class Flood(Struct, frozen=True):
    """connections × streams Checks are under way at every moment, each with Envoy's deadline for a try."""

    connections: int = 4
    streams: int = 32
    deadline_ms: int = 250


class Said(Struct):
    """By the flooder: Checks a second, and how long each answer took."""

    a_second: float = 0.0
    took_s: list[float] = []


class Felt(Struct, frozen=True):
    """By the tenant who does nothing wrong; in seconds. codes  of its answers that were no 200."""

    asked: int
    median_s: float
    p99_s: float
    slowest_s: float
    codes: dict[str, int]


class Overloaded(Struct, frozen=True):
    """alone, under, after  what the other tenant felt without, during and after the flood
    reasons          how the flood's Checks were decided, by reason; a_second  how many of them
    refusal          status and `retry-after` of one that was shed, as Envoy would give them to the client
    flood_slowest_s  the slowest answer to the flood; late  how many of its answers came after their deadline, of `answers`
    back_s           from the flood's end to the first answer within twice the median of alone
    """

    alone: Felt
    under: Felt
    after: Felt
    reasons: dict[str, int]
    a_second: float
    refusal: tuple[int, str]
    flood_slowest_s: float
    late: int
    answers: int
    back_s: float

    @property
    def shed(self) -> int:
        return self.reasons.get(SHED, 0)

    @property
    def factor(self) -> float:
        """By how much the median of the other tenant's requests is slower during the flood."""
        return self.under.median_s / self.alone.median_s


def run(seconds: float, flood: Flood, *, queue: int = 32) -> Overloaded:
    with Fleet(Plan(Kind.SQLITE, sidecars=1, proxied=False, listen=f"queue: {queue}")) as fleet:
        quiet = Caller("chatbot-prod", fleet.secrets["chatbot-prod"], SMALL)
        socket = read_settings(fleet.configs[0]).listen.check_socket
        message = check_of(fleet.secrets["batch-processor"])
        with httpx.Client(base_url=fleet.url, timeout=10, trust_env=False) as client:
            alone = _felt(_ask(client, quiet, seconds))
            before = len(_reasons(fleet))
            with flooding(fleet, flood, socket, message, seconds + 2 * _RAMP_S) as said:
                pause(_RAMP_S)
                under = _felt(_ask(client, quiet, seconds))
                refusal = _shed_one(socket, message)
            back_s = _back(client, quiet, alone.median_s)
            after = _felt(_ask(client, quiet, seconds))
        reasons = Counter(_reasons(fleet)[before:])
    return Overloaded(
        alone=alone,
        under=under,
        after=after,
        reasons=dict(reasons),
        a_second=said.a_second,
        refusal=refusal,
        flood_slowest_s=max(said.took_s),
        late=sum(took_s > flood.deadline_ms / 1000 for took_s in said.took_s),
        answers=len(said.took_s),
        back_s=back_s,
    )


def check_of(secret: str) -> bytes:
    """A Check of a small chat, as Envoy makes it."""
    body = json.dumps({"model": SMALL, "messages": [{"role": "user", "content": "flood"}], "max_tokens": 16}).encode()
    headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
    http = check_pb2.AttributeContext.HttpRequest(
        method="POST", path=CHAT, size=len(body), raw_body=body, headers=headers, host="gateway"
    )
    request = check_pb2.AttributeContext.Request(http=http)
    return check_pb2.CheckRequest(attributes=check_pb2.AttributeContext(request=request)).SerializeToString()


@contextmanager
def flooding(fleet: Fleet, flood: Flood, socket: str, message: bytes, seconds: float) -> Iterator[Said]:
    """While the block runs, and to the end of it; then what the flooder says of it is there."""
    framed, log = fleet.folder / "flood", fleet.folder / "flood.log"
    framed.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    command = [FLOODER, "-B", f"unix:{socket}", "-D", str(max(1, round(seconds))), "-t", "1", "-d", str(framed)]
    command += ["-c", str(flood.connections), "-m", str(flood.streams), "-H", "te: trailers"]
    command += ["-H", "content-type: application/grpc", "-H", f"grpc-timeout: {flood.deadline_ms}m", f"--log-file={log}"]
    said = Said()
    process = subprocess.Popen(
        [*command, f"http://sidecar{_METHOD}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield said
        text = process.communicate(timeout=seconds + 30)[0]
        rate = re.search(r"finished in \S+, ([\d.]+) req/s", text)
        if rate is None:
            raise AssertionError(f"the flooder said nothing of its rate: {text}")
        said.a_second = float(rate[1])
        said.took_s = [int(line.split("\t")[2]) / 1e6 for line in log.read_text().splitlines()]
    finally:
        framed.unlink()  # a key stands in it
        if process.poll() is None:
            process.kill()
            process.wait()


def _shed_one(socket: str, message: bytes, times: int = 500) -> tuple[int, str]:
    """One more of the flood's Checks until it is shed: its status and what it says of when to come again."""
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)
        for _ in range(times):
            try:
                answer = check_pb2.CheckResponse.FromString(ask(message, timeout=1))
            except grpc.RpcError:
                continue
            if answer.denied_response.status.code == 503:
                headers = {each.header.key: each.header.value for each in answer.denied_response.headers}
                return 503, headers.get("retry-after", "")
    return 0, ""


_numbers = iter(range(1, 1 << 62))


def _ask(client: httpx.Client, quiet: Caller, seconds: float) -> list[Sent]:
    sent, end_s = [], time.monotonic() + seconds
    while time.monotonic() < end_s:
        sent.append(send(client, quiet, next(_numbers)))
    return sent


def _felt(sent: list[Sent]) -> Felt:
    times = [each.took_s for each in sent]
    cuts = quantiles(times, n=100) if len(times) > 1 else times * 100
    codes = Counter(each.code or str(each.status) for each in sent if each.status != 200 or each.code)
    return Felt(len(sent), cuts[49], cuts[98], max(times), dict(codes))


def _back(client: httpx.Client, quiet: Caller, median_s: float) -> float:
    began_s = time.monotonic()
    while time.monotonic() < began_s + 10:
        sent = send(client, quiet, next(_numbers))
        if sent.status == 200 and sent.took_s <= 2 * median_s:
            return sent.ended_s - began_s
    return float("inf")


def _reasons(fleet: Fleet) -> list[str]:
    """Of every decision on record, in order."""
    records = [json.loads(line) for line in (fleet.configs[0].parent / "decisions.jsonl").read_bytes().splitlines()]
    return [record["reason"] or "allowed" for record in records if record["kind"] == "decision"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.overload", description="one tenant floods, another one asks")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    found = run(parser.parse_args().seconds, Flood())
    table = Table("another tenant's requests, one at a time", "asked", "median, ms", "p99, ms", "slowest, ms", "not answered")
    for name, felt in (("alone", found.alone), ("during the flood", found.under), ("after it", found.after)):
        times = (f"{1000 * each:.1f}" for each in (felt.median_s, felt.p99_s, felt.slowest_s))
        table.add_row(name, str(felt.asked), *times, str(felt.codes or "none"))
    console = Console(width=140, highlight=False)
    console.print(table)
    console.print(f"The flood: {found.a_second:.0f} Checks a second, decided as {found.reasons}.")
    console.print(
        f"Its slowest answer took {found.flood_slowest_s:.3f} s; {found.late} of {found.answers} came after their deadline; "
        f"{found.shed} were shed, status, retry-after: {found.refusal}."
    )
    console.print(
        f"The other tenant is slower by a factor of {found.factor:.2f}, and as quick as before {found.back_s:.3f} s after."
    )
    return 0 if not found.under.codes and found.shed and found.refusal == (503, "1") else 1


if __name__ == "__main__":
    sys.exit(main())
