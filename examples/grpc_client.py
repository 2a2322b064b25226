"""A service that asks the sidecar over gRPC and sends by itself. Other languages generate a client from `proto/authz/v1`."""

from __future__ import annotations

import json
import os

import grpc
import httpx

from authz.api.wire import decisions_pb2 as wire

GROQ = os.environ.get("GROQ_URL", "https://api.groq.com")
PATH = "/openai/v1/chat/completions"


def ask(channel: grpc.Channel, model: str) -> str:
    decide: grpc.UnaryUnaryMultiCallable[wire.DecideRequest, wire.DecideResponse] = channel.unary_unary(
        "/authz.v1.Decisions/Decide", wire.DecideRequest.SerializeToString, wire.DecideResponse.FromString
    )
    settle: grpc.UnaryUnaryMultiCallable[wire.SettleRequest, wire.SettleResponse] = channel.unary_unary(
        "/authz.v1.Decisions/Settle", wire.SettleRequest.SerializeToString, wire.SettleResponse.FromString
    )
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Say hello"}], "max_tokens": 32}).encode()
    headers = {"authorization": f"Bearer {os.environ['AUTHZ_KEY']}", "content-type": "application/json"}
    request = wire.InferenceRequest(
        method="POST", path=PATH, body=body, headers=[wire.Header(name=name, value=value) for name, value in headers.items()]
    )
    decision = decide(wire.DecideRequest(request=request, include_upstream_key=True), timeout=1)
    if decision.WhichOneof("outcome") != "allowed":
        return f"{decision.denied.reason}: {decision.denied.message}"

    allowed = decision.allowed
    end = wire.SettleRequest(reservation_id=allowed.reservation_id, upstream=allowed.upstream, outcome=wire.OUTCOME_ABANDONED)
    try:
        answer = httpx.post(GROQ + PATH, content=body, headers=headers | {"authorization": f"Bearer {allowed.upstream_key}"})
        end.status = answer.status_code
        if answer.is_error:
            end.outcome = wire.OUTCOME_UPSTREAM_ERROR
            answer.raise_for_status()
        said = answer.json()
        end.outcome = wire.OUTCOME_ANSWERED
        end.usage.input_tokens = said["usage"]["prompt_tokens"]
        end.usage.output_tokens = said["usage"]["completion_tokens"]
    finally:
        settle(end, timeout=1)
    return f"{said['choices'][0]['message']['content']}"


def main() -> None:
    with grpc.insecure_channel(f"unix:{os.environ['AUTHZ_SOCKET']}") as channel:
        print(ask(channel, "llama-3.1-8b-instant"))
        print(ask(channel, "openai/gpt-oss-120b"))


if __name__ == "__main__":
    main()
