"""The cards of several data folders as one: what must be equal is compared, what was counted is summed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qllava.datagen.card import CARD, SCHEMA_VERSION, Report
from qllava.datagen.money import Usage
from qllava.datagen.shard import parse
from qllava.errors import DataError

_SUMMED = frozenset({"counts", "cost_usd", "usage", "answers", "unasked"})
# Of the machine that wrote them, or made anew.
_FREE = frozenset({"files", "image_root", "shard", "endpoint"})


@dataclass(frozen=True, slots=True)
class Shard:
    """One data folder: its card, and where its pictures are."""

    folder: Path
    card: Mapping[str, Any]
    images: Path


def read_shard(folder: Path) -> Shard:
    """Read a folder's card.

    Raises:
        DataError: there is none, or it is not one of this version.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name folders that gen-data wrote") from None
    except ValueError:
        raise DataError(f"{path} is not JSON; run the command that wrote the folder again") from None
    version = card.get("schema_version") if isinstance(card, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(f"{path} has schema_version {version!r}, not {SCHEMA_VERSION}; write it again with this qllava")
    root = card.get("image_root")
    if not isinstance(root, str) or not isinstance(card.get("files"), dict) or not isinstance(card.get("counts"), dict):
        raise DataError(f"{path} lacks image_root, counts or files; run the command that wrote the folder again")
    return Shard(folder, card, (folder / root).resolve())


def join_cards(shards: Sequence[Shard]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the card of all of them, the shards that are not among them as far as the cards tell).

    Raises:
        DataError: cards that are not of one run; names the first difference.
    """
    first = shards[0]
    for other in shards[1:]:
        if other.images != first.images:
            raise _differ("image_root", other, str(other.images), first, str(first.images))
    joined = _join(first, shards, [shard.card for shard in shards], "")
    return joined, _lacking(shards)


def report_of(card: Mapping[str, Any], out: Path) -> Report:
    """The report that a card was written from."""
    counts = card["counts"]
    return Report(
        out=out,
        source=card["source"],
        teacher=card["teacher"],
        model=card["model"],
        seed=card["seed"],
        questions=card["questions"],
        kinds=tuple(card["kinds"]),
        pictures=counts["pictures"],
        held_out=counts["held_out_pictures"],
        held_out_rule=card["held_out_rule"],
        held_out_questions=counts["held_out_questions"],
        missing=counts["missing_pictures"],
        absent_splits=counts["absent_splits"],
        captions=counts["captions"],
        by_kind=counts["by_kind"],
        by_type=counts["by_type"],
        rejected=counts["rejected"],
        files=card["files"],
        cost_usd=card["cost_usd"],
        target=card["target"],
        **_asked(card.get("model_run")),
    )


def _asked(run: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a language model's card says more."""
    if run is None:
        return {}
    usage = run["usage"]
    same = {name: run[name] for name in ("endpoint", "prompts", "mix", "answers", "unasked")}
    return same | {"usage": Usage(usage["prompt_tokens"], usage["cached_tokens"], usage["completion_tokens"])}


def _join(first: Shard, shards: Sequence[Shard], parts: Sequence[Mapping[str, Any]], prefix: str) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        values = [part.get(key) for part in parts]
        name = f"{prefix}{key}"
        if key in _SUMMED:
            joined[key] = _sum(values, name)
        elif key == "endpoint":
            joined[key] = ", ".join(sorted({str(value) for value in values if value is not None})) or None
        elif key in _FREE:
            if key != "shard":
                joined[key] = values[0]
        elif all(isinstance(value, dict) for value in values):
            joined[key] = _join(first, shards, [part[key] for part in parts], f"{name}.")
        else:
            for shard, value in zip(shards, values, strict=True):
                if value != values[0]:
                    raise _differ(name, shard, value, first, values[0])
            joined[key] = values[0]
    return joined


def _sum(values: Sequence[Any], name: str) -> Any:
    """Numbers added, mappings key by key; None (an unknown cost) makes all of it unknown."""
    if all(isinstance(value, dict) for value in values):
        keys = dict.fromkeys(key for value in values for key in value)
        # Sorted where the cards are (types, reasons), in their order where that says more (kinds).
        ordered = sorted(keys) if all(list(value) == sorted(value) for value in values) else list(keys)
        return {key: _sum([value[key] for value in values if key in value], f"{name}.{key}") for key in ordered}
    if any(value is None for value in values):
        return None
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise DataError(f"{CARD}: {name} is no number in some of the folders; write them with one version of qllava")
    return round(sum(values), 6) if any(isinstance(value, float) for value in values) else sum(values)


def _lacking(shards: Sequence[Shard]) -> tuple[str, ...]:
    """The shares that nobody gave; () where the cards do not say which share they are."""
    named = [(shard, parse(str(shard.card["shard"]))) for shard in shards if shard.card.get("shard") is not None]
    if not named:
        return ()
    first, (_, of) = named[0]
    given: dict[int, Shard] = {}
    for shard, (index, other) in named:
        if other != of:
            raise _differ("shard", shard, shard.card["shard"], first, first.card["shard"])
        if index in given:
            raise DataError(f"{given[index].folder} and {shard.folder} are both shard {index}/{of}; give each once")
        given[index] = shard
    return tuple(f"{index}/{of}" for index in range(1, of + 1) if index not in given)


def _differ(name: str, one: Shard, value: object, other: Shard, expected: object) -> DataError:
    return DataError(
        f"{one.folder / CARD} has {name} {value!r} and {other.folder / CARD} has {expected!r}; "
        "only shards of one run can be merged"
    )
