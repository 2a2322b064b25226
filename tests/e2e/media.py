"""A bundle in which one team may use every endpoint, and what each costs there, worked out by other means."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import yaml

from demo.answers import Usage

EMBEDDER: Final = "nomic-embed-text-v1_5"
PREFIX: Final = "/openai/v1"


def with_media(bundle: Path) -> None:
    """A team that may use everything, keys of it with next to no money or 20 seconds an hour, and a model for embeddings."""

    def edit(name: str, **sections: dict[str, Any]) -> None:
        path = bundle / name
        document = yaml.safe_load(path.read_text())
        for section, rows in sections.items():
            document[section] |= rows
        path.write_text(yaml.safe_dump(document))

    edit(
        "directory.yaml", teams={"media": {}}, keys={name: {"team": "media"} for name in ("media", "media-poor", "media-brief")}
    )
    row = {"actions": ["embed"], "price": {"input": "0.02", "output": "0"}, "context_tokens": 8192, "prompt_overhead_tokens": 8}
    edit("models.yaml", models={EMBEDDER: row})
    quotas = yaml.safe_load((bundle / "quotas.yaml").read_text())
    quotas["quotas"].append({"id": "heard", "scope": 'Key::"media-brief"', "what": "audio_seconds", "limit": "20/hour"})
    quotas["quotas"].append({"id": "poor", "scope": 'Key::"media-poor"', "what": "spend", "limit": "0.000000001 USD/day"})
    (bundle / "quotas.yaml").write_text(yaml.safe_dump(quotas))
    (bundle / "media.cedar").write_text(
        '@id("media-all")\npermit (principal in Team::"media", action in Action::"infer", resource);\n'
    )


def with_batches(bundle: Path) -> None:
    """The same with batches at half the price, and a team beside it that may make them too."""
    with_media(bundle)
    models = yaml.safe_load((bundle / "models.yaml").read_text())
    models["tiers"]["batch"] = "0.5"
    for name in (CHAT, EMBEDDER):
        models["models"][name]["actions"].append("batch")
    (bundle / "models.yaml").write_text(yaml.safe_dump(models))
    directory = yaml.safe_load((bundle / "directory.yaml").read_text())
    directory["teams"] |= {"rivals": {}, "online": {}}
    directory["keys"] |= {name: {"team": name} for name in ("rivals", "online")}
    directory["keys"]["media-few"] = {"team": "media"}
    (bundle / "directory.yaml").write_text(yaml.safe_dump(directory))
    quotas = yaml.safe_load((bundle / "quotas.yaml").read_text())
    quotas["quotas"].append({"id": "few", "scope": 'Key::"media-few"', "what": "requests", "limit": "3/hour"})
    (bundle / "quotas.yaml").write_text(yaml.safe_dump(quotas))
    (bundle / "batches.cedar").write_text(
        '@id("rivals-all")\npermit (principal in Team::"rivals", action in Action::"infer", resource);\n'
        '@id("online-only")\npermit (principal in Team::"online", action == Action::"chat", resource);\n'
        '@id("small-lines")\nforbid (principal, action == Action::"chat", resource)\n'
        'when { context.service_tier == "batch" && context.max_output_tokens > 60000 };\n'
    )


def up(amount: int, per: int) -> int:
    return -(-amount // per)


def tokens(input_: int, output: int, cached: int = 0) -> Callable[[Usage], int]:
    """Nano-dollars for a thousand tokens."""

    def cost(used: Usage) -> int:
        fresh = used.prompt_tokens - used.cached_tokens
        return up(fresh * input_ + used.cached_tokens * cached + used.completion_tokens * output, 1000)

    return cost


def speech(used: Usage) -> int:
    return used.characters * 22_000


def audio(used: Usage) -> int:
    return up(used.audio_seconds * 111_000_000, 3600)


CHAT: Final = "openai/gpt-oss-20b"
ENGLISH: Final = "canopylabs/orpheus-v1-english"
WHISPER: Final = "whisper-large-v3"

COST: Final[dict[str, Callable[[Usage], int]]] = {
    CHAT: tokens(75_000, 300_000, 37_500),
    EMBEDDER: tokens(20_000, 0),
    WHISPER: audio,
    ENGLISH: speech,
}
"""Nano-dollars for what the stand-in counts, by model."""
