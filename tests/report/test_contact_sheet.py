from pathlib import Path

import pytest
from PIL import Image

from qllava.errors import DataError
from qllava.report.contact_sheet import SheetItem, _font, _wrap, fit_picture, write_contact_sheet

GREEN, RED = (21, 128, 61), (220, 38, 38)


def item(answer: str, right: bool | None = None) -> SheetItem:
    return SheetItem(Image.new("RGB", (64, 48), "blue"), "What color is it?", "blue", answer, right)


def colors(path: Path) -> set[object]:
    with Image.open(path) as image:
        return {color for _, color in image.convert("RGB").getcolors(1 << 24) or []}


def test_right_is_green_and_wrong_is_red(tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    write_contact_sheet([item(" Blue")], out)
    assert GREEN in colors(out)
    assert RED not in colors(out)
    write_contact_sheet([item("red"), item("")], out, title="A title", subtitle="and more " * 30)
    assert RED in colors(out)
    assert GREEN not in colors(out)


def test_the_scorers_word_counts_over_the_text() -> None:
    assert item("azure", right=True).scored_right
    assert not item("azure").scored_right
    assert item("BLUE ").scored_right


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (4, 4, 1), (5, 4, 2)])
def test_cards_lie_in_a_grid(tmp_path: Path, count: int, columns: int, rows: int) -> None:
    write_contact_sheet([item("blue")] * count, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width == 68 + columns * 324 + (columns - 1) * 22
        assert (image.height - 68 + 22) % rows == 0


def test_tiny_pictures_stay_crisp_and_proportions_stay() -> None:
    tiny = Image.new("RGB", (4, 2), "white")
    tiny.putpixel((0, 0), (0, 0, 0))
    large = fit_picture(tiny, 288)
    assert large.size == (288, 144)
    assert {color for _, color in large.getcolors() or []} == {(0, 0, 0), (255, 255, 255)}
    assert fit_picture(Image.new("L", (1000, 10)), 288).size == (288, 3)


def test_text_wraps_inside_the_card() -> None:
    font = _font("DejaVuSans.ttf", 19)
    for text in ("many short words " * 9, "unbroken" * 20, ""):
        lines = _wrap(text, font, 200)
        assert len(lines) <= 4
        assert all(font.getlength(line) <= 200 for line in lines)
    assert _wrap("many short words " * 9, font, 200)[-1].endswith("…")
    assert _wrap("two words", font, 200) == ["two words"]


def test_an_empty_sheet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="needs at least one picture"):
        write_contact_sheet([], tmp_path / "sheet.png")
