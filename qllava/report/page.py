"""Pictures with texts beside them as a page to look at: filters, search, pages, nothing fetched from a network.

What a gallery and a report of answers share. Pages opened from a disk may not fetch files, but may load scripts; so a
large page is an HTML file and a folder of scripts with `FILE_PICTURES` pictures each, of which the browser holds only
those on view. A small one is one HTML file. Thumbnails are JPEG data inside.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from PIL import Image

from qllava.errors import DataError
from qllava.pictures import open_image, resolve_image

FILE_PICTURES = 50
PAGE_PICTURES = 20
"""Pictures on view at once."""
_TEXTS_PICTURES = 2_000
_THUMBNAIL = 320
_QUALITY = 78
_PARTS = ("index.html", "style.css", "script.js")
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Words:
    """What a page calls things: its own title, what is counted, an entry without and with a reason, who wrote it.

    Without `bad` nothing is judged, and entries are only counted.
    """

    page: str
    entries: str
    good: str
    bad: str
    who: str


@dataclass(frozen=True, slots=True)
class PageEntry:
    """One entry beside a picture.

    `turns` are (question, answer) pairs. `reason` makes it a bad one and is a filter; `detail` explains it.
    `columns` are further answers to the question of the last turn, one for each name of the page's columns.
    """

    kind: str
    type: str
    turns: tuple[tuple[str, str], ...]
    reason: str | None = None
    detail: str = ""
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PageBox:
    """A category in a box (x1, y1, x2, y2), 0-1 per axis."""

    category: str
    box: tuple[float, float, float, float]
    crowd: bool = False


class PageWriter:
    """Collects pictures into scripts and hands each one on as soon as it is full."""

    def __init__(self, place: Path | None, columns: Sequence[str] = ()) -> None:
        """Write scripts into the folder `place`, or keep them for the page itself."""
        self._place = place
        self._columns = list(columns)
        self._scripts: list[str] = []
        self._pictures: list[dict[str, Any]] = []
        self._texts: list[list[str]] = []
        self._codes: list[list[int]] = []
        self._kinds: dict[str, int] = {}
        self._types: dict[str, int] = {}
        self._reasons: dict[str, int] = {}
        self.good = self.bad = self.unreadable = 0

    def add(
        self,
        image: str,
        root: Path,
        entries: Sequence[PageEntry],
        *,
        captions: Sequence[str] = (),
        boxes: Sequence[PageBox] = (),
    ) -> None:
        """Add one picture: its name below `root`, empty for entries without one."""
        small = thumbnail(root, image) if image else None
        if small is None and image:
            self.unreadable += 1
        width, height, data = small or (4, 3, "")
        self._pictures.append(
            {
                "image": image,
                "width": width,
                "height": height,
                "data": data,
                "captions": list(captions),
                "boxes": [[box.category, *(round(side, 4) for side in box.box), int(box.crowd)] for box in boxes],
                "samples": [_record(entry) for entry in entries],
            }
        )
        self._texts.append([" ".join(captions).lower(), *(_search_text(entry) for entry in entries)])
        self._codes.append([self._code(entry) for entry in entries])
        bad = sum(entry.reason is not None for entry in entries)
        self.bad += bad
        self.good += len(entries) - bad
        number = len(self._codes) - 1
        if len(self._pictures) == FILE_PICTURES:
            self._flush_pictures(number)
        if len(self._texts) == _TEXTS_PICTURES:
            self._flush_texts(number)

    def finish(self, *, title: str, words: Words, of_pictures: int) -> list[str]:
        """Write the rest and the index; returns the scripts of the page, none but the index if there is a folder."""
        last = len(self._codes) - 1
        if self._pictures:
            self._flush_pictures(last)
        if self._texts:
            self._flush_texts(last)
        index = {
            "title": title,
            "words": asdict(words),
            "columns": self._columns,
            "of": of_pictures,
            "kinds": list(self._kinds),
            "types": list(self._types),
            "reasons": list(self._reasons),
            "codes": self._codes,
            "filePictures": FILE_PICTURES,
            "textPictures": _TEXTS_PICTURES,
            "pagePictures": PAGE_PICTURES,
        }
        self._emit("index", 0, index)
        return self._scripts

    def _code(self, entry: PageEntry) -> int:
        """Kind, type and reason as one number, so that filters need no text: the index of 100,000 samples is 1 MB."""
        kind = self._kinds.setdefault(entry.kind, len(self._kinds))
        topic = self._types.setdefault(entry.type, len(self._types))
        reason = 0 if entry.reason is None else self._reasons.setdefault(entry.reason, len(self._reasons)) + 1
        return (reason * 1000 + topic) * 100 + kind

    def _flush_pictures(self, last: int) -> None:
        self._emit("pictures", last // FILE_PICTURES, self._pictures)
        self._pictures = []

    def _flush_texts(self, last: int) -> None:
        self._emit("texts", last // _TEXTS_PICTURES, self._texts)
        self._texts = []

    def _emit(self, name: str, number: int, value: object) -> None:
        # ASCII, and no "<": nothing in a caption can end a script or start a tag.
        text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
        script = f'gallery("{name}",{number},{text});\n'
        if self._place is None:
            self._scripts.append(script)
        else:
            (self._place / f"{name}-{number:05d}.js").write_text(script, encoding="ascii")


def _record(entry: PageEntry) -> dict[str, Any]:
    record: dict[str, Any] = {"turns": entry.turns}
    if entry.reason is not None:
        record["detail"] = entry.detail
    if entry.columns:
        record["columns"] = entry.columns
    return record


def _search_text(entry: PageEntry) -> str:
    texts = [part for turn in entry.turns for part in turn]
    return " ".join([*texts, *entry.columns, entry.reason or "", entry.detail]).lower()


def thumbnail(root: Path, image: str) -> tuple[int, int, str] | None:
    """(width, height, JPEG as base64) of at most 320 pixels a side; None if unreadable or outside the image root."""
    try:
        picture = open_image(resolve_image(root, image), draft=_THUMBNAIL)
    except DataError:  # counted and shown as an empty frame
        return None
    scale = _THUMBNAIL / max(picture.size)
    if scale < 1:
        small = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(small, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return picture.width, picture.height, base64.b64encode(buffer.getvalue()).decode("ascii")


def spread(images: Sequence[_Item], limit: int) -> list[_Item]:
    """At most `limit` of them at even distances, the first one among them."""
    if len(images) <= limit:
        return list(images)
    return [images[number * len(images) // limit] for number in range(limit)]


def page_html(scripts: Iterable[str], pages: str) -> str:
    """The page; its data are these scripts, or those in the folder `pages` beside it."""
    source = resources.files("qllava.report") / "gallery_page"
    page, style, script = ((source / name).read_text(encoding="utf-8") for name in _PARTS)
    data = "".join(f"<script>{text}</script>\n" for text in scripts)
    if pages:
        data = f'<script src="{_url(pages)}index-00000.js"></script>\n'
    settings = f"const PAGES = {json.dumps(_url(pages))};\n"
    filled = {"STYLE": style, "SCRIPT": settings + script, "DATA": data}
    return "".join(_filled(page, filled))


def _filled(page: str, parts: Mapping[str, str]) -> Iterator[str]:
    """The page with its `{{NAME}}` marks replaced, once each; data is never searched for marks."""
    rest = page
    while rest:
        text, _, rest = rest.partition("{{")
        yield text
        if rest:
            name, _, rest = rest.partition("}}")
            yield parts[name]


def _url(path: str) -> str:
    return quote(path)


def write_page(path: Path, text: str) -> None:
    """Write the HTML file, whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
