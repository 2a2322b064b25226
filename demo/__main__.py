"""`python -m demo`: one pass through the real Envoy with the real SDK, printed; `--stay` keeps everything up."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

from demo.scenario import add_budget, run
from demo.stack import Stack


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description="authz through the real Envoy, on this machine only.")
    parser.add_argument("--stay", action="store_true", help="stay up after the first requests")
    parser.add_argument("--listen", default="", help="Envoy's address; 127.0.0.1:8080 with --stay, else a free port")
    arguments = parser.parse_args()
    if arguments.stay:
        return _stay(arguments.listen or "127.0.0.1:8080")
    with tempfile.TemporaryDirectory(prefix="authz-", dir="/tmp") as folder, _stack(Path(folder), arguments.listen) as stack:
        return 0 if run(stack) else 1


def _stack(folder: Path, listen: str, groq_key: str = "") -> Stack:
    return Stack(folder, listen=listen or "127.0.0.1:0", groq_key=groq_key, change=None if groq_key else add_budget)


def _stay(listen: str) -> int:
    """With GROQ_API_KEY set Envoy forwards to Groq, without it to the stand-in."""
    groq_key = os.environ.get("GROQ_API_KEY", "")
    with tempfile.TemporaryDirectory(prefix="authz-", dir="/tmp") as folder, _stack(Path(folder), listen, groq_key) as stack:
        if not groq_key:
            run(stack)  # against Groq itself it would cost money
        key = stack.new_key("chatbot-prod")
        stack.wait_for_key_reload()
        print(f"Envoy listens on {stack.url} and forwards to {'Groq' if groq_key else 'the stand-in'}.")
        print(f"Settings, bundle, store and records: {stack.folder}\n")
        for title, model in (("allowed", "llama-3.1-8b-instant"), ("denied, not a model of this team", "openai/gpt-oss-120b")):
            body = f'{{"model":"{model}","messages":[{{"role":"user","content":"Say hello"}}],"max_tokens":32}}'
            print(f"# {title}\ncurl -s {stack.url}/openai/v1/chat/completions \\\n  -H 'Authorization: Bearer {key}' \\")
            print(f"  -H 'Content-Type: application/json' \\\n  -d '{body}'\n")
        print("Ctrl-C stops everything.", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a supervisor's way of saying the same
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("\nstopping")
    return 0


if __name__ == "__main__":
    sys.exit(main())
