"""Data folders of the shards of one run become one: samples by picture, counts summed, hashes made anew.

The folders of `gen-data --shard i/n` are in the order of pictures, so the merged files are those that one machine would
have written; near duplicates of a language model alone are looked for within each shard. Everything is streamed; the
ids alone are kept in memory, about 100 bytes a sample.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge as merge_sorted
from pathlib import Path
from typing import Any

from qllava.datagen.card import CARD, image_root, readme
from qllava.datagen.json_records import Record, json_records
from qllava.datagen.merged_card import Shard, join_cards, read_shard, report_of
from qllava.errors import DataError, UsageError
from qllava.files import atomic_directory, sha256

LISTS = ("align.json", "instruct.json")
LINES = ("heldout.jsonl", "rejected.jsonl", "responses.jsonl")
_OTHERS = "give it the folders of `gen-data --shard 1/n` to `n/n`, each once"


@dataclass(frozen=True, slots=True)
class Merged:
    """What was joined: `counts` as in the card, the folder that the pictures are in, and which shards were not given.

    `repeated` is the number of rows about the whole source (pictures that are not on disk, say) that several shards
    had listed and that are kept once.
    """

    out: Path
    folders: int
    counts: Mapping[str, Any]
    images: Path
    lacking: tuple[str, ...]
    repeated: int


@dataclass(slots=True)
class _Joining:
    """What is remembered while the files are written; `source_rows` counts by reason what is no picture's own."""

    ids: dict[str, Path] = field(default_factory=dict)
    rows: dict[str, Record] = field(default_factory=dict)
    repeated: Counter[str] = field(default_factory=Counter)


def merge(out: Path, folders: Sequence[Path]) -> Merged:
    """Write the data of `folders` into `out`, which appears whole or not at all.

    Raises:
        UsageError: fewer than two folders, one twice, or `out` holds something.
        DataError: a folder that gen-data did not write or that was changed since; folders that differ in teacher,
            model, seed, questions, kinds or image root; an id that two of them have.
    """
    _check(out, folders)
    shards = [read_shard(folder) for folder in folders]
    card, lacking = join_cards(shards)
    for shard in shards:
        _check_hashes(shard)
    joining = _Joining()
    with atomic_directory(out.resolve()) as aside:
        for name in LISTS:
            _write_list(aside / name, shards, joining)
        for name in LINES:
            write = {"rejected.jsonl": _write_rejected, "responses.jsonl": _write_responses}.get(name, _write_lines)
            write(aside / name, shards, joining)
        card["image_root"] = image_root(shards[0].images, out)
        _count_once(card["counts"], joining)
        card["files"] = {name: sha256(aside / name) for name in (*LISTS, *LINES)}
        text = readme(report_of(card, out))
        (aside / "README.md").write_text(text, encoding="utf-8", newline="\n")
        card["files"]["README.md"] = sha256(aside / "README.md")
        content = json.dumps(card, ensure_ascii=False, indent=2) + "\n"
        (aside / CARD).write_text(content, encoding="utf-8", newline="\n")
    return Merged(out, len(folders), card["counts"], shards[0].images, lacking, joining.repeated.total())


def _check(out: Path, folders: Sequence[Path]) -> None:
    if len(folders) < 2:
        raise UsageError(f"{len(folders)} folder is nothing to merge; {_OTHERS}")
    seen: set[Path] = set()
    for folder in folders:
        place = folder.resolve()
        if place in seen:
            raise UsageError(f"{folder} is given twice; {_OTHERS}")
        seen.add(place)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an empty folder; name a new one")


def _check_hashes(shard: Shard) -> None:
    for name in (*LISTS, *LINES):
        path, known = shard.folder / name, shard.card["files"].get(name)
        if not path.is_file():
            raise DataError(f"{path} is not there; run the command that wrote {shard.folder} again")
        if known is not None and sha256(path) != known:
            raise DataError(
                f"{path} is not what {CARD} beside it says: changed, or not copied whole; "
                "copy it again, or run the command that wrote it again"
            )


def _write_list(path: Path, shards: Sequence[Shard], joining: _Joining) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        number = 0
        for entry in _by_picture(path.name, shards, joining):
            file.write(",\n" if number else "[\n")
            file.write(json.dumps(entry, ensure_ascii=False))
            number += 1
        file.write("\n]\n" if number else "[]\n")


def _write_lines(path: Path, shards: Sequence[Shard], joining: _Joining) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for entry in _by_picture(path.name, shards, joining):
            file.write(_line(entry))


def _by_picture(name: str, shards: Sequence[Shard], joining: _Joining) -> Iterator[Record]:
    """The entries of all shards in the order of their pictures, no id twice."""
    joining.ids.clear()

    def checked(shard: Shard) -> Iterator[Record]:
        path = shard.folder / name
        for where, entry in json_records(path):
            identity = entry.get("id")
            if not isinstance(identity, str) or not isinstance(entry.get("image"), str):
                raise DataError(f"{where} has id {identity!r} and image {entry.get('image')!r}; both are needed")
            other = joining.ids.setdefault(identity, path)
            if other is not path:
                raise DataError(f"id {identity!r} is in {other} and in {path}; {_OTHERS}")
            yield entry

    return merge_sorted(*map(checked, shards), key=_image)


def _write_rejected(path: Path, shards: Sequence[Shard], joining: _Joining) -> None:
    """Rows about the whole source first and once, however many shards list them; then the others by picture."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for shard in shards:
            earlier = set(joining.rows)
            for _, row in json_records(shard.folder / path.name):
                if "id" in row:
                    continue
                line = _line(row)
                if line in earlier:
                    joining.repeated[str(row.get("reason"))] += 1
                else:
                    joining.rows[line] = row
                    file.write(line)
        own = ((row for _, row in json_records(shard.folder / path.name) if "id" in row) for shard in shards)
        for row in merge_sorted(*own, key=_image):
            file.write(_line(row))


def _write_responses(path: Path, shards: Sequence[Shard], joining: _Joining) -> None:
    """The template teacher's records by picture; a language model's answers as they are, under one heading."""
    files = [shard.folder / path.name for shard in shards]
    heads = [next((row for _, row in json_records(file)), {}) for file in files]
    if all("image" in head or not head for head in heads):
        _write_template_responses(path, files)
        return
    with path.open("wb") as target:
        first = b""
        for file in files:
            with file.open("rb") as source:
                for number, line in enumerate(source):
                    if number == 0 and line == first:
                        continue
                    first = first or line
                    target.write(line if line.endswith(b"\n") else line + b"\n")


def _write_template_responses(path: Path, files: Sequence[Path]) -> None:
    key: Callable[[Record], tuple[bool, str]] = lambda row: (bool(row.get("held_out")), _image(row))  # noqa: E731
    rows = ((row for _, row in json_records(file)) for file in files)
    with path.open("w", encoding="utf-8", newline="\n") as target:
        for row in merge_sorted(*rows, key=key):
            target.write(_line(row))


def _count_once(counts: dict[str, Any], joining: _Joining) -> None:
    """Correct the sums by what several shards had counted about the whole source."""
    rows = joining.rows.values()
    counts["missing_pictures"] -= joining.repeated["picture not on disk"]
    splits: Counter[str] = Counter()
    for row in rows:
        if row.get("reason") == "split not on disk":
            splits[str(row.get("split"))] += int(row.get("pictures", 0))
    counts["absent_splits"] = dict(splits)
    for reason, number in joining.repeated.items():
        if reason in counts["rejected"]:
            counts["rejected"][reason] -= number


def _image(row: Record) -> str:
    return str(row.get("image", ""))


def _line(row: Record) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
