"""A data folder as a page to look at: each picture with what the teacher saw, beside its questions and answers.

Pages opened from a disk may not fetch files, but may load scripts; so a large gallery is `gallery.html` and a folder
of scripts with `FILE_PICTURES` pictures each, of which the browser holds only those on view. Up to `INLINE_PICTURES`
everything is in the one HTML file. Thumbnails are JPEG data inside; nothing comes from a network.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from qllava.errors import DataError, UsageError
from qllava.files import atomic_directory
from qllava.pictures import open_image, resolve_image
from qllava.report.data_folder import DataFolder, PictureRecord, Sample

DEFAULT_LIMIT = 2_000
"""Pictures; 100,000 would be 1.5 GB of thumbnails and ten minutes."""
INLINE_PICTURES = 100
FILE_PICTURES = 50
PAGE_PICTURES = 20
"""Pictures on view at once."""
_TEXTS_PICTURES = 2_000
_THUMBNAIL = 320
_QUALITY = 78
_PARTS = ("index.html", "style.css", "script.js")


@dataclass(frozen=True, slots=True)
class GalleryReport:
    """What was written: pictures shown of those there are, samples, pages of `PAGE_PICTURES`, bytes in all files.

    `unreadable` counts pictures that are not on disk or no pictures; they are shown as empty frames. `elsewhere`
    counts rejections that name no picture and are not shown.
    """

    out: Path
    pictures: int
    of_pictures: int
    kept: int
    rejected: int
    pages: int
    size: int
    unreadable: int
    elsewhere: int


def write_gallery(folder: Path, out: Path | None = None, *, limit: int = DEFAULT_LIMIT) -> GalleryReport:
    """Write the gallery of a data folder.

    Args:
        folder: written by gen-data: `card.json`, `instruct.json`, perhaps `rejected.jsonl` and `responses.jsonl`.
        out: the HTML file, by default `gallery.html` in the folder; larger ones get a folder `gallery_pages` beside it.
        limit: at most this many pictures, spread evenly over the data.

    Raises:
        UsageError: no such data folder, a limit below 1, or a pages folder that holds other files.
        DataError: a file of the folder that cannot be read.
    """
    if limit < 1:
        raise UsageError(f"--limit {limit} shows no picture; give 1 or more")
    if not folder.is_dir():
        raise UsageError(f"data folder {folder} does not exist; write one with `qllava gen-data --images FOLDER`")
    out = folder / "gallery.html" if out is None else out
    if out.is_dir():
        raise UsageError(f"--out {out} is a folder; name the HTML file to write")
    pages = out.with_name(f"{out.stem}_pages")
    _refuse_foreign(pages)
    out.parent.mkdir(parents=True, exist_ok=True)
    with DataFolder(folder) as data, ExitStack() as stack:
        chosen = _spread(data.images, limit)
        inline = len(chosen) <= INLINE_PICTURES
        place = None if inline else stack.enter_context(atomic_directory(pages))
        writer = _Writer(data, place)
        for number, image in enumerate(chosen):
            writer.add(number, data.picture(image))
        scripts = writer.finish(title=folder.resolve().name, teacher=data.teacher, of_pictures=len(data.images))
    _write(out, _html(scripts, "" if inline else f"{pages.name}/"))
    if inline and pages.is_dir():
        _remove(pages)
    size = out.stat().st_size + (0 if inline else sum(path.stat().st_size for path in pages.iterdir()))
    return GalleryReport(
        out=out,
        pictures=len(chosen),
        of_pictures=len(data.images),
        kept=writer.kept,
        rejected=writer.rejected,
        pages=max(1, -(-len(chosen) // PAGE_PICTURES)),
        size=size,
        unreadable=writer.unreadable,
        elsewhere=data.elsewhere,
    )


class _Writer:
    """Collects pictures into scripts and hands each one on as soon as it is full."""

    def __init__(self, data: DataFolder, place: Path | None) -> None:
        self._data = data
        self._place = place
        self._scripts: list[str] = []
        self._pictures: list[dict[str, Any]] = []
        self._texts: list[list[str]] = []
        self._codes: list[list[int]] = []
        self._kinds: dict[str, int] = {}
        self._types: dict[str, int] = {}
        self._reasons: dict[str, int] = {}
        self.kept = self.rejected = self.unreadable = 0

    def add(self, number: int, record: PictureRecord) -> None:
        """Add one picture; `number` counts from 0."""
        thumbnail = _thumbnail(self._data.image_root, record.image) if record.image else None
        if thumbnail is None and record.image:
            self.unreadable += 1
        self._pictures.append(_picture(record, thumbnail))
        self._texts.append([" ".join(record.captions).lower(), *(_search_text(s) for s in record.samples)])
        self._codes.append([self._code(sample) for sample in record.samples])
        rejected = sum(sample.reason is not None for sample in record.samples)
        self.rejected += rejected
        self.kept += len(record.samples) - rejected
        if len(self._pictures) == FILE_PICTURES:
            self._flush_pictures(number)
        if len(self._texts) == _TEXTS_PICTURES:
            self._flush_texts(number)

    def finish(self, *, title: str, teacher: str, of_pictures: int) -> list[str]:
        """Write the rest and the index; returns the scripts of the page, none but the index if there is a folder."""
        last = len(self._codes) - 1
        if self._pictures:
            self._flush_pictures(last)
        if self._texts:
            self._flush_texts(last)
        index = {
            "title": title,
            "teacher": teacher,
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

    def _code(self, sample: Sample) -> int:
        """Kind, type and reason as one number, so that filters need no text: the index of 100,000 samples is 1 MB."""
        kind = self._kinds.setdefault(sample.kind, len(self._kinds))
        topic = self._types.setdefault(sample.type, len(self._types))
        reason = 0 if sample.reason is None else self._reasons.setdefault(sample.reason, len(self._reasons)) + 1
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


def _picture(record: PictureRecord, thumbnail: tuple[int, int, str] | None) -> dict[str, Any]:
    width, height, data = thumbnail or (4, 3, "")
    return {
        "image": record.image,
        "width": width,
        "height": height,
        "data": data,
        "captions": record.captions,
        "boxes": [[box.category, *(round(side, 4) for side in box.box), int(box.crowd)] for box in record.boxes],
        "samples": [
            {"turns": sample.turns} | ({"detail": sample.detail} if sample.reason is not None else {})
            for sample in record.samples
        ],
    }


def _search_text(sample: Sample) -> str:
    return " ".join([*(part for turn in sample.turns for part in turn), sample.reason or "", sample.detail]).lower()


def _thumbnail(root: Path, image: str) -> tuple[int, int, str] | None:
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


def _spread(images: Sequence[str], limit: int) -> list[str]:
    """At most `limit` of them at even distances, the first one among them."""
    if len(images) <= limit:
        return list(images)
    return [images[number * len(images) // limit] for number in range(limit)]


def _html(scripts: Iterable[str], pages: str) -> str:
    source = resources.files("qllava.report") / "gallery_page"
    page, style, script = ((source / name).read_text(encoding="utf-8") for name in _PARTS)
    data = "".join(f"<script>{text}</script>\n" for text in scripts)
    if pages:
        data = f'<script src="{_url(pages)}index-00000.js"></script>\n'
    settings = f"const PAGES = {json.dumps(_url(pages))};\n"
    filled = {"STYLE": style, "SCRIPT": settings + script, "DATA": data}
    return "".join(_filled(page, filled))


def _filled(page: str, parts: dict[str, str]) -> Iterator[str]:
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


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _refuse_foreign(pages: Path) -> None:
    """A pages folder is replaced as a whole: only if nothing but scripts of a gallery is in it."""
    if not pages.exists():
        return
    names = ("index-", "pictures-", "texts-")
    foreign = pages if not pages.is_dir() else next((p for p in pages.iterdir() if not p.name.startswith(names)), None)
    if foreign is not None:
        raise UsageError(f"{foreign} was not written by the gallery; choose another --out or move it away")


def _remove(pages: Path) -> None:
    for path in pages.iterdir():
        path.unlink()
    pages.rmdir()
