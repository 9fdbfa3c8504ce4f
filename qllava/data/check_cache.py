"""Findings kept between runs: the same file, pictures and settings need no second look."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qllava.data.check import Progress, check_data
from qllava.data.check_pictures import pictures_stamp
from qllava.data.encode import ChatEncoder
from qllava.data.findings import Findings
from qllava.data.formats import ConversationTable
from qllava.files import write_json

# Raised when the check finds something else in the same data.
VERSION = 1
_KEPT = 50


def cached_check(
    table: ConversationTable,
    encoder: ChatEncoder,
    *,
    digest: str,
    cache: Path | None,
    image_root: Path,
    max_length: int,
    needs_image: bool,
    held_out: Iterable[str] = (),
    thorough: bool,
    progress: Progress | None = None,
) -> Findings:
    """`check_data`, or what it found before in the same data; a quick look takes a thorough one, too.

    Args:
        digest: sha256 of the data file.
        cache: folder of kept findings; None keeps nothing.
        others: see `check_data`.
    """
    settings: dict[str, Any] = {"max_length": max_length, "needs_image": needs_image, "held_out": sorted(set(held_out))}
    key = check_key(encoder, digest=digest, image_root=image_root, **settings)
    stamp: str | None = None
    for deep in (True,) if thorough else (True, False):
        found = None if cache is None else read_findings(_place(cache, key, thorough=deep))
        if found is not None and found.rows == len(table):
            stamp = stamp or pictures_stamp(image_root, table.pictures())
            if found.stamp == stamp:
                return found
    findings = check_data(table, encoder, image_root=image_root, thorough=thorough, progress=progress, **settings)
    if cache is not None:
        write_findings(_place(cache, key, thorough=thorough), findings)
        _forget_old(cache)
    return findings


def check_key(encoder: ChatEncoder, *, digest: str, image_root: Path, **settings: object) -> str:
    """A name for a check that is equal only if its result is, as long as the pictures stay.

    Args:
        encoder: its template, tokenizer and tokens a picture count.
        digest: sha256 of the data file.
        image_root: where its pictures are.
        settings: the rest that the check depends on, e.g. `max_length`.
    """
    parts: dict[str, Any] = {
        "version": VERSION,
        "digest": digest,
        "image_root": str(image_root.resolve()),
        "template": encoder.template.source,
        "tokenizer": hashlib.sha256(encoder.tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "tokens_per_image": encoder.tokens_per_image,
        **settings,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def read_findings(path: Path) -> Findings | None:
    """Findings that `write_findings` kept; None where there are none, or they cannot be read."""
    try:
        return Findings.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_findings(path: Path, findings: Findings) -> None:
    """Keep findings, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, findings.to_dict())


def _forget_old(folder: Path) -> None:
    """Keep the newest fifty: each may name every row of a set."""
    kept = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in kept[_KEPT:]:
        path.unlink(missing_ok=True)


def _place(cache: Path, key: str, *, thorough: bool) -> Path:
    return cache / f"{key}-{'thorough' if thorough else 'quick'}.json"
