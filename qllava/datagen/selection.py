"""Which scenes a run works on, and whether it may write where it was told to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from qllava.datagen.card import CARD, SCHEMA_VERSION
from qllava.datagen.lessons import KINDS, Kind
from qllava.datagen.responses import RESPONSES, is_journal
from qllava.datagen.sources import Scene
from qllava.datagen.writer import PLACEHOLDER, WRITTEN
from qllava.errors import UsageError

MODEL_TEACHERS = ("openai", "openai-batch")
TEACHERS = ("template", *MODEL_TEACHERS)


def check_settings(teacher: str, limit: int | None, questions: int, kinds: Sequence[str]) -> tuple[Kind, ...]:
    """The kinds in their usual order.

    Raises:
        UsageError: an unknown teacher or kind, or a number below its least value.
    """
    if teacher not in TEACHERS:
        raise UsageError(f"--teacher {teacher!r} is not known; choose one of: {', '.join(TEACHERS)}")
    unknown = [kind for kind in kinds if kind not in get_args(Kind)]
    if unknown or not kinds:
        given = unknown[0] if unknown else ""
        raise UsageError(f"--kinds {given!r} is not known; choose some of: {','.join(KINDS)}")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit} leaves no picture; give 1 or more")
    if questions < 1:
        raise UsageError(f"--questions {questions} asks nothing; give 1 or more, or leave conversation out of --kinds")
    return tuple(kind for kind in KINDS if kind in kinds)


def limited(scenes: list[Scene], limit: int | None, seed: int) -> list[Scene]:
    """At most `limit` scenes, the same ones for the same seed, in their order."""
    if limit is None or len(scenes) <= limit:
        return scenes
    ranked = sorted(scenes, key=lambda scene: hashlib.sha256(f"{seed}/{scene.id}".encode()).hexdigest())
    kept = {scene.id for scene in ranked[:limit]}
    return [scene for scene in scenes if scene.id in kept]


def with_usable_captions(scene: Scene) -> Scene:
    """The scene without captions that cannot be learnt: empty ones, and such as hold the image placeholder."""
    usable = tuple(caption for caption in scene.captions if caption and PLACEHOLDER not in caption.lower())
    return scene if usable == scene.captions else replace(scene, captions=usable)


def refuse_foreign(out: Path, teacher: str, shard: str | None = None) -> None:
    """Never write over data that gen-data did not make, nor over answers that were paid for, nor over another shard.

    Raises:
        UsageError: `out` is a file, holds data without our card, or was made by the other sort of teacher, or for
            another `--shard`.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder")
    paid = is_journal(out / RESPONSES)
    if paid and teacher == "template":
        raise UsageError(
            f"{out / RESPONSES} holds a language model's answers, which the template teacher would replace; "
            "choose another --out or move it away"
        )
    there = [name for name in (*WRITTEN, RESPONSES) if (out / name).exists()]
    if not there or (paid and there == [RESPONSES]):
        return
    try:
        card = json.loads((out / CARD).read_text(encoding="utf-8"))
        known = card["schema_version"] == SCHEMA_VERSION and card["teacher"]
        share = card.get("shard")
    except (OSError, ValueError, KeyError, TypeError):
        known = share = None
    if known != teacher and not (paid and known in MODEL_TEACHERS):
        whom = "the template teacher" if teacher == "template" else "a language-model teacher"
        raise UsageError(f"{out / there[0]} was not written by {whom}; choose another --out or move it away")
    if share != shard:
        holds = "the whole data set" if share is None else f"shard {share}"
        raise UsageError(f"{out} holds {holds}; give each shard a folder of its own with --out")
