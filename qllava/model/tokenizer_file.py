"""The `tokenizer.json` of a language model, where it is on this machine already; no torch, no download."""

from __future__ import annotations

from pathlib import Path

from qllava.model.embedded import PREFIX, SMOLLM2, cache_dir
from qllava.plan.sizes import hub_cache

_FILE = "tokenizer.json"


def find_tokenizer_file(language_model: str) -> Path | None:
    """The file of a folder, a cached hub id or the converted embedded model; None where there is none yet."""
    if language_model == f"{PREFIX}{SMOLLM2}":
        found = sorted((cache_dir() / "models").glob(f"SmolLM2-135M-*/{_FILE}"))
    elif Path(language_model).is_dir():
        found = [Path(language_model) / _FILE]
    else:
        found = sorted(hub_cache().glob(f"models--{language_model.replace('/', '--')}/snapshots/*/{_FILE}"))
    return next((file for file in found if file.is_file()), None)
