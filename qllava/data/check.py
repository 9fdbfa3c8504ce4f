"""A look at a data set before anybody trusts it: every row, every picture, and what the template makes of them.

Rows are read one at a time and never kept: a row costs some 50 bytes, a picture its name. Only a thorough check
tokenises every row and decodes every picture; the quick one, which runs before each training, tokenises and decodes a
spread of them (tokenising takes a millisecond a row, decoding 10 a picture) and lets the rest be found, left out and
named while training.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qllava.data.chat_template import IMAGE_TOKEN
from qllava.data.check_pictures import LOOK_AT_PICTURES, PictureLook, look_at_pictures, same_pictures
from qllava.data.encode import ChatEncoder, SampleRejected, check_turns
from qllava.data.findings import DOUBTS, Finding, Findings, length_bins
from qllava.data.formats import ConversationTable
from qllava.data.rows import ParsedRow, RowRejected
from qllava.datagen.json_records import json_records
from qllava.datagen.near_duplicates import NearDuplicates
from qllava.types import Conversation

# Rows that a quick look tokenises: about 4 s.
LOOK_AT = 4000
# Texts compared for near-duplicates at a time, 1 kB each; of a larger set only those this close to each other.
COMPARED = 100_000
# Shorter texts differ by one word and mean another thing.
_LEAST_WORDS = 8
_TELL_EVERY = 1000

Progress = Callable[[str, int, int], None]
"""Told (what is looked at, done, of how many)."""


def check_data(
    table: ConversationTable,
    encoder: ChatEncoder,
    *,
    image_root: Path,
    max_length: int,
    needs_image: bool,
    held_out: Iterable[str] = (),
    thorough: bool = True,
    progress: Progress | None = None,
) -> Findings:
    """Examine a data set; `table` may be opened with `strict=False`, so that bad rows are found and not raised.

    Args:
        table: all of it.
        encoder: of the stage.
        image_root: folder that image names are relative to.
        max_length: tokens of a sample at most.
        needs_image: text-only rows are left out, as stage 1 does.
        held_out: image names (of the same folder) that must not be trained on, or measuring means nothing.
        thorough: tokenise all rows, decode all pictures, compare all texts; else a spread, and no texts.
        progress: told every thousand rows or pictures.

    Raises:
        DataError: the data file changed meanwhile.
    """
    tell = progress or (lambda what, done, total: None)
    seen = _Seen(NearDuplicates(seed=0, most=COMPARED) if thorough else None)
    stride = 1 if thorough else -(-len(table) // LOOK_AT)
    for row in range(len(table)):
        if row % _TELL_EVERY == 0:
            tell("samples", row, len(table))
        try:
            parsed = table.parsed(row)
        except RowRejected as error:
            seen.add_bad(row, f"row {row}", error.reason, str(error))
            continue
        conversation = parsed.conversation
        if needs_image and not conversation.images:
            seen.text_only += 1
            continue
        seen.note_pictures(row, conversation)
        seen.note_doubts(row, parsed)
        try:
            check_turns(conversation)
            if row % stride == 0:
                seen.tokenize(row, conversation, encoder, max_length)
        except SampleRejected as error:
            seen.add_bad(row, conversation.id, error.reason, str(error))
    tell("samples", len(table), len(table))
    names = list(seen.pictures)
    look = look_at_pictures(
        image_root,
        names,
        decode=len(names) if thorough else LOOK_AT_PICTURES,
        progress=lambda done, total: tell("pictures", done, total),
    )
    broken_samples = _blame(seen, look, names, table)
    _doubt_held_out(seen, image_root, names, look, list(held_out), table)
    if thorough:
        _doubt_repeats(seen, table)
    edges = [edge for edge in (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384) if edge < max_length]
    return Findings(
        rows=len(table),
        tokenized=seen.tokenized,
        pictures=len(names),
        decoded=look.decoded,
        broken=len(look.broken),
        broken_samples=broken_samples,
        text_only=seen.text_only,
        bad=tuple(sorted(seen.bad.values(), key=lambda finding: finding.row)),
        doubtful=tuple(sorted(seen.doubtful, key=lambda finding: finding.row)),
        doubts={kind: seen.doubts[kind] for kind in DOUBTS if seen.doubts[kind]},
        lengths=length_bins(seen.lengths, [*edges, max_length]),
        longest=max(seen.lengths, default=0),
        thorough=thorough,
        stamp=look.stamp,
    )


def held_out_images(path: Path) -> list[str]:
    """Image names of a question set (`heldout.jsonl`); none where there is no such file.

    Raises:
        DataError: it is there and is no JSON lines of objects.
    """
    if not path.is_file():
        return []
    return [image for _, row in json_records(path) if isinstance(image := row.get("image"), str)]


@dataclass(slots=True)
class _Seen:
    """What is kept of the rows: numbers, hashes and picture names; and the findings."""

    near: NearDuplicates | None
    bad: dict[int, Finding] = field(default_factory=dict)
    doubtful: list[Finding] = field(default_factory=list)
    doubts: Counter[str] = field(default_factory=Counter)
    pictures: dict[str, int] = field(default_factory=dict)
    uses: array[int] = field(default_factory=lambda: array("q"))  # row, picture, row, picture, ...
    ids: array[int] = field(default_factory=lambda: array("Q"))  # row, hash, row, hash, ...
    contents: array[int] = field(default_factory=lambda: array("Q"))
    lengths: array[int] = field(default_factory=lambda: array("i"))
    tokenized: int = 0
    text_only: int = 0

    def add_bad(self, row: int, identity: str, reason: str, message: str) -> None:
        """The first reason counts."""
        self.bad.setdefault(row, Finding(row, identity, reason, message))

    def add_doubt(self, row: int, identity: str, kind: str, message: str, times: int = 1) -> None:
        self.doubts[kind] += times
        self.doubtful.append(Finding(row, identity, kind, message))

    def note_pictures(self, row: int, conversation: Conversation) -> None:
        for name in conversation.images:
            number = self.pictures.setdefault(name, len(self.pictures))
            self.uses.extend((row, number))

    def note_doubts(self, row: int, parsed: ParsedRow) -> None:
        """What the reader left out, stray placeholders, and (thorough) what makes repeats found."""
        conversation = parsed.conversation
        if parsed.half_turns:
            message = f"{parsed.half_turns} of its turns lack their other half and are left out"
            self.add_doubt(row, conversation.id, "half_turns", message, parsed.half_turns)
        stray = sum(IMAGE_TOKEN in part for message in conversation.messages for part in _texts(message["content"]))
        if stray:
            message = f"{IMAGE_TOKEN} in {stray} texts is text; add the images, or remove it"
            self.add_doubt(row, conversation.id, "extra_placeholder", message)
        if self.near is None:
            return
        self.ids.extend((row, _hash(conversation.id)))
        content = repr((conversation.images, conversation.messages))
        self.contents.extend((row, _hash(content)))
        # Marked with their pictures: questions about different pictures are alike, and should be.
        mark = ",".join(str(self.pictures[name]) for name in conversation.images)
        texts = (part for message in conversation.messages for part in _texts(message["content"]))
        words = [f"{mark}|{word}" for text in texts for word in text.lower().split()]
        if len(words) < _LEAST_WORDS:
            return
        like = self.near.like(words)
        if like is None:
            self.near.remember(str(row), words)
        else:
            message = f"{like.similarity:.0%} like row {like.name}, about the same picture"
            self.add_doubt(row, conversation.id, "near_duplicate", message)

    def tokenize(self, row: int, conversation: Conversation, encoder: ChatEncoder, max_length: int) -> None:
        self.tokenized += 1
        encoded = encoder.encode(conversation, max_length)
        self.lengths.append(len(encoded.input_ids))
        if encoded.dropped_turns:
            message = f"{encoded.dropped_turns} question-answer pairs cut from the end to fit {max_length} tokens"
            self.add_doubt(row, conversation.id, "cut_turns", message, encoded.dropped_turns)
        if encoded.escaped:
            message = f"{encoded.escaped} control tokens in its texts are made harmless"
            self.add_doubt(row, conversation.id, "control_text", message, encoded.escaped)


def _blame(seen: _Seen, look: PictureLook, names: list[str], table: ConversationTable) -> int:
    """Blame the rows whose pictures failed; how many are bad only because decoding failed."""
    reasons = {number: look.failed[name] for number, name in enumerate(names) if name in look.failed}
    broken = {number for number, name in enumerate(names) if name in look.broken}
    counted = 0
    for row, number in _pairs(seen.uses):
        if number in reasons and row not in seen.bad:
            reason, message = reasons[number]
            seen.add_bad(row, table[row].id, reason, message)
            counted += number in broken
    return counted


def _doubt_held_out(
    seen: _Seen, root: Path, names: list[str], look: PictureLook, held_out: list[str], table: ConversationTable
) -> None:
    same = same_pictures(root, names, look, held_out)
    numbers = {number: same[name] for number, name in enumerate(names) if name in same}
    doubted: set[int] = set()
    for row, number in _pairs(seen.uses):
        if number in numbers and row not in doubted:
            doubted.add(row)
            other = numbers[number]
            how = "is" if other == names[number] else f"has the content of {other}, which is"
            seen.add_doubt(row, table[row].id, "held_out", f"image {names[number]} {how} in the held-out set, too")


def _doubt_repeats(seen: _Seen, table: ConversationTable) -> None:
    """Ids and contents that occur before; a near-duplicate that is a whole one is called that."""
    equal = dict(_repeats(seen.contents))
    whole = [not (finding.reason == "near_duplicate" and finding.row in equal) for finding in seen.doubtful]
    seen.doubts["near_duplicate"] -= whole.count(False)
    seen.doubtful = [finding for finding, keep in zip(seen.doubtful, whole, strict=True) if keep]
    for row, first in equal.items():
        seen.add_doubt(row, table[row].id, "duplicate", f"equal to row {first}")
    for row, first in _repeats(seen.ids):
        seen.add_doubt(row, table[row].id, "repeated_id", f"the id of row {first}")


def _repeats(pairs: array[int]) -> Iterator[tuple[int, int]]:
    """(row, the first row with the same hash) of all but the first; no dict, which would take 100 bytes a row."""
    if not pairs:
        return
    table = np.frombuffer(pairs, dtype=np.uint64).reshape(-1, 2)
    order = np.lexsort((table[:, 0], table[:, 1]))
    first = -1
    for before, here in zip([-1, *order[:-1].tolist()], order.tolist(), strict=True):
        if before >= 0 and table[before, 1] == table[here, 1]:
            yield int(table[here, 0]), first
        else:
            first = int(table[here, 0])


def _pairs(numbers: array[int]) -> Iterator[tuple[int, int]]:
    return zip(numbers[::2], numbers[1::2], strict=True)


def _texts(parts: Iterable[object]) -> Iterator[str]:
    return (part["text"] for part in parts if isinstance(part, dict) and part["type"] == "text")


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
