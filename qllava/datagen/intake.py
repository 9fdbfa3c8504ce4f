"""What one run works on: the source that was read, and which of its pictures are taught, held out and aligned with."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from qllava.datagen.balance import balanced
from qllava.datagen.selection import limited, with_usable_captions
from qllava.datagen.shard import in_shard, parse
from qllava.datagen.short_questions import Priors
from qllava.datagen.sources import Scene, Source, read_source
from qllava.datagen.template_teacher import measure_priors
from qllava.datagen.writer import caption_pair
from qllava.errors import DataError, UsageError


@dataclass(frozen=True, slots=True)
class Intake:
    """The pictures of one run.

    `train` and `held_out` are this shard's, of at most `limit` in the whole source; `of` the training pictures of the
    whole source before any limit. `paired` holds the ids that `target` chose for caption pairs, None for all. `priors`
    and `paired` come from the pictures of all shards, so that together they write what one machine would have written.
    `unpacked` is where the pictures of archives were put, None for pictures that are files.
    """

    source: Source
    train: list[Scene]
    held_out: list[Scene]
    of: int
    priors: Priors
    paired: frozenset[str] | None
    unpacked: Path | None


def take_in(
    images: Path,
    annotations: Path | None,
    out: Path,
    *,
    limit: int | None,
    seed: int,
    shard: str | None = None,
    target: int | None = None,
    unpack_to: Path | None = None,
) -> Intake:
    """Read a source and choose.

    Args:
        images: see `sources.read_source`.
        annotations: see `sources.read_source`.
        out: the data folder that will be written; archives are unpacked beside it unless `unpack_to` is given.
        limit: at most this many training pictures, and as many held-out ones, over all shards.
        seed: of the choice within `limit`, and of the captions.
        shard: `i/n` for the i-th of n shares by id.
        target: at most this many caption pairs, concepts balanced, over all shards.
        unpack_to: folder for the pictures of archives and data sets.

    Raises:
        UsageError: a setting that cannot work, nothing there, or nothing known.
        DataError: contents that cannot be read, or nothing to train on.
    """
    share = None if shard is None else parse(shard)
    if target is not None and target < 1:
        raise UsageError(f"--target {target} keeps no caption; give 1 or more")
    place = unpack_to or unpacking_place(images, out)
    source = read_source(images, annotations, unpack_to=place)
    every = [scene for scene in source.scenes if not scene.held_out]
    if not every:
        raise DataError(f"{images} has {len(source.scenes)} pictures, none to train on; give at least 2")
    train = limited(every, limit, seed)
    held_out = limited([scene for scene in source.scenes if scene.held_out], limit, seed)
    priors = measure_priors(train)
    paired = None if target is None else _paired(train, target, seed)
    if share is not None:
        number = len(train)
        train = [scene for scene in train if in_shard(scene.id, *share)]
        held_out = [scene for scene in held_out if in_shard(scene.id, *share)]
        if not train:
            raise DataError(f"--shard {shard} holds none of the {number:,} pictures to train on; use fewer shards")
    unpacked = place if source.root == place else None
    return Intake(source, train, held_out, len(every), priors, paired, unpacked)


def unpacking_place(images: Path, out: Path) -> Path:
    """Where archives are unpacked: beside the data folder, one place for all shards of a source, no other source's."""
    whole = images.resolve() if images.exists() else images
    name = re.sub(r"[^\w.-]+", "-", whole.name if images.exists() else images.as_posix()).strip(".-")
    digest = hashlib.sha256(whole.as_posix().encode("utf-8", "surrogateescape")).hexdigest()
    return out.parent / f"images-of-{name}-{digest[:6]}"


def _paired(scenes: list[Scene], target: int, seed: int) -> frozenset[str]:
    usable = (with_usable_captions(scene) for scene in scenes)
    chosen = balanced(
        ((scene.id, caption_pair(scene, seed)[1]) for scene in usable if scene.captions), target, seed=seed
    )
    if not chosen.ids:
        raise DataError(
            f"--target {target}: no noun phrase is in 3 of the {chosen.captions:,} captions, so no concept can be "
            "balanced; leave --target out"
        )
    return frozenset(chosen.ids)
