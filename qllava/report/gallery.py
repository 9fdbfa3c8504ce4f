"""A data folder as a page to look at: each picture with what the teacher saw, beside its questions and answers.

A large gallery is `gallery.html` and a folder of scripts beside it; up to `INLINE_PICTURES` everything is in the one
HTML file (`report/page.py`).
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from qllava.errors import UsageError
from qllava.files import atomic_directory
from qllava.report.data_folder import DataFolder
from qllava.report.page import PAGE_PICTURES, PageWriter, Words, page_html, spread, write_page

DEFAULT_LIMIT = 2_000
"""Pictures; 100,000 would be 1.5 GB of thumbnails and ten minutes."""
INLINE_PICTURES = 100


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
        chosen = spread(data.images, limit)
        inline = len(chosen) <= INLINE_PICTURES
        place = None if inline else stack.enter_context(atomic_directory(pages))
        writer = PageWriter(place)
        for image in chosen:
            record = data.picture(image)
            writer.add(record.image, data.image_root, record.samples, captions=record.captions, boxes=record.boxes)
        words = Words("gallery", "samples", "kept", "rejected", f"teacher {data.teacher}")
        scripts = writer.finish(title=folder.resolve().name, words=words, of_pictures=len(data.images))
    write_page(out, page_html(scripts, "" if inline else f"{pages.name}/"))
    if inline and pages.is_dir():
        _remove(pages)
    size = out.stat().st_size + (0 if inline else sum(path.stat().st_size for path in pages.iterdir()))
    return GalleryReport(
        out=out,
        pictures=len(chosen),
        of_pictures=len(data.images),
        kept=writer.good,
        rejected=writer.bad,
        pages=max(1, -(-len(chosen) // PAGE_PICTURES)),
        size=size,
        unreadable=writer.unreadable,
        elsewhere=data.elsewhere,
    )


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
