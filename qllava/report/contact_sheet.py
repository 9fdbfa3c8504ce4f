"""Pictures with questions, truths and answers on one sheet: what a model gets right, at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from qllava.errors import DataError

_PICTURE = 288
_PADDING = 18
_CARD = _PICTURE + 2 * _PADDING
_GAP = 22
_MARGIN = 34
_TEXT = 19
_LINE = 26
_PAGE = "#eef2f7"
_INK = "#0f172a"
_MUTED = "#64748b"
_EDGE = "#d6dde8"
_RIGHT = "#15803d"
_WRONG = "#dc2626"


class SheetItem(NamedTuple):
    """One card. `right` says how it was scored; by default, whether answer and truth are the same text."""

    picture: Image.Image
    question: str
    truth: str
    answer: str
    right: bool | None = None

    @property
    def scored_right(self) -> bool:
        """The colour of the card."""
        return self.right if self.right is not None else self.answer.strip().lower() == self.truth.strip().lower()


def write_contact_sheet(
    items: Sequence[SheetItem], out: Path, *, title: str = "", subtitle: str = "", columns: int = 4
) -> None:
    """Lay cards out in a grid and write a PNG; right answers are marked green, wrong ones red.

    Small pictures are enlarged by whole pixels when they are tiny and smoothly otherwise; long texts wrap, and are cut
    with an ellipsis after four lines.

    Raises:
        DataError: no items.
    """
    if not items:
        raise DataError("a contact sheet needs at least one picture with a question")
    regular, bold = _font("DejaVuSans.ttf", _TEXT), _font("DejaVuSans-Bold.ttf", _TEXT)
    columns = min(columns, len(items))
    width = 2 * _MARGIN + columns * _CARD + (columns - 1) * _GAP
    texts = [_lines(item, regular, bold) for item in items]
    rows = [range(start, min(start + columns, len(items))) for start in range(0, len(items), columns)]
    # Cards of a row are as high as the one with the most text.
    heights = [_PICTURE + 3 * _PADDING + 6 + max(sum(map(len, texts[i])) for i in row) * _LINE for row in rows]
    headline = _font("DejaVuSans-Bold.ttf", 30)
    subtitles = _wrap(subtitle, regular, width - 2 * _MARGIN) if subtitle else []
    top = _MARGIN + (48 if title else 0) + len(subtitles) * _LINE + (16 if title or subtitle else 0)
    sheet = Image.new("RGB", (width, top + sum(heights) + _GAP * (len(rows) - 1) + _MARGIN), _PAGE)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_MARGIN, _MARGIN - 6), title, _INK, headline)
    for number, line in enumerate(subtitles):
        draw.text((_MARGIN, top - 16 - (len(subtitles) - number) * _LINE), line, _MUTED, regular)
    y = top
    for row, height in zip(rows, heights, strict=True):
        for column, index in enumerate(row):
            x = _MARGIN + column * (_CARD + _GAP)
            _draw_card(sheet, draw, (x, y, height), items[index], texts[index], (regular, bold))
        y += height + _GAP
    sheet.save(out, optimize=True)


def _draw_card(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int, int],
    item: SheetItem,
    texts: tuple[list[str], list[str], list[str]],
    fonts: tuple[ImageFont.FreeTypeFont, ImageFont.FreeTypeFont],
) -> None:
    x, y, height = place
    regular, bold = fonts
    mark = _RIGHT if item.scored_right else _WRONG
    box = (x, y, x + _CARD, y + height)
    draw.rounded_rectangle(box, radius=14, fill="white", outline=_EDGE, width=2)
    picture = fit_picture(item.picture, _PICTURE)
    left, upper = x + _PADDING + (_PICTURE - picture.width) // 2, y + _PADDING + (_PICTURE - picture.height) // 2
    sheet.paste(picture, (left, upper))
    draw.rectangle((left - 1, upper - 1, left + picture.width, upper + picture.height), outline=_EDGE)
    question, truth, answer = texts
    line_y = y + _PICTURE + 2 * _PADDING - 4
    inner = x + _PADDING
    for line in question:
        draw.text((inner, line_y), line, _INK, bold)
        line_y += _LINE
    line_y += 6
    _badge(draw, (inner, line_y + 2), mark, right=item.scored_right)
    for line in answer:
        draw.text((inner + 30, line_y), line, mark, bold)
        line_y += _LINE
    for line in truth:
        draw.text((inner + 30, line_y), line, _MUTED, regular)
        line_y += _LINE


def _badge(draw: ImageDraw.ImageDraw, place: tuple[int, int], color: str, *, right: bool) -> None:
    """A disc with a tick or a cross: the colours alone would say nothing to one man in twelve."""
    x, y = place
    draw.ellipse((x, y, x + 20, y + 20), fill=color)
    if right:
        draw.line(((x + 5, y + 10), (x + 9, y + 14), (x + 15, y + 6)), fill="white", width=3, joint="curve")
    else:
        draw.line(((x + 6, y + 6), (x + 14, y + 14)), fill="white", width=3)
        draw.line(((x + 14, y + 6), (x + 6, y + 14)), fill="white", width=3)


def fit_picture(picture: Image.Image, side: int) -> Image.Image:
    """The picture inside a square of `side` pixels, its proportions kept.

    One of a quarter of the side or less is enlarged pixel by pixel, so that it shows what the model saw; others are
    resampled smoothly.
    """
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    kind = Image.Resampling.NEAREST if scale >= 4 else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize(size, kind)


def _lines(
    item: SheetItem, regular: ImageFont.FreeTypeFont, bold: ImageFont.FreeTypeFont
) -> tuple[list[str], list[str], list[str]]:
    """Question, truth and answer in lines that fit; the truth of a right answer that says the same is not repeated."""
    same = item.scored_right and item.answer.strip().lower() == item.truth.strip().lower()
    question = _wrap(item.question, bold, _PICTURE)
    truth = [] if same else _wrap(f"truth: {item.truth}", regular, _PICTURE - 30)
    return question, truth, _wrap(item.answer.strip() or "(no answer)", bold, _PICTURE - 30)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, limit: int = 4) -> list[str]:
    """Break a text into lines of at most `width` pixels; words longer than a line are broken too."""
    lines: list[str] = [""]
    for word in text.split():
        rest = word
        joined = f"{lines[-1]} {rest}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        while font.getlength(rest) > width:
            fits = next(
                size for size in range(len(rest) - 1, 0, -1) if size == 1 or font.getlength(rest[:size]) <= width
            )
            lines[-1], rest = rest[:fits], rest[fits:]
            lines.append("")
        lines[-1] = rest
    if len(lines) <= limit:
        return lines
    last = lines[limit - 1]
    while last and font.getlength(f"{last}…") > width:
        last = last[:-1]
    return [*lines[: limit - 1], f"{last}…"]


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that matplotlib ships: no system font is needed, and every machine draws the same sheet."""
    import matplotlib as mpl  # noqa: PLC0415

    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)
