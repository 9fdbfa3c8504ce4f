"""The gallery of a data folder: its data, its files, and once in a real browser where there is one."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from qllava.errors import DataError, UsageError
from qllava.report.gallery import FILE_PICTURES, INLINE_PICTURES, write_gallery

ATTACK = "<script>document.title = 'hacked'</script> & <b>bold</b> {{DATA}}"


def sample(image: str | None, question: str, answer: str, **more: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
    return ({"id": image or "text"} | ({"image": image} if image else {}) | {"conversations": turns}) | more


def write_folder(
    place: Path,
    samples: Sequence[dict[str, Any]],
    rejected: Sequence[dict[str, Any]] = (),
    responses: Sequence[dict[str, Any]] = (),
) -> Path:
    """A data folder whose pictures are named in the samples; those called "lost" are not on disk."""
    folder = place / "data"
    folder.mkdir()
    (place / "coco").mkdir()
    (folder / "card.json").write_text(json.dumps({"image_root": "../coco", "teacher": "template"}))
    rows = ",\n".join(json.dumps(row) for row in samples)
    (folder / "instruct.json").write_text(f"[\n{rows}\n]\n")
    for name, entries in (("rejected.jsonl", rejected), ("responses.jsonl", responses)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in entries))
    for image in {row["image"] for row in (*samples, *rejected) if "image" in row}:
        if "lost" not in image:
            Image.new("RGB", (640, 480), "navy").save(place / "coco" / image)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    responses = [
        {
            "image": "a.jpg",
            "captions": ["a dog", ATTACK],
            "boxes": [{"category": "dog", "box": [0.1, 0.2, 0.5, 1.2]}, {"category": "x", "box": [1, 2]}],
        },
        {"image": "unused.jpg", "captions": ["not shown"]},
    ]
    samples = [
        sample("a.jpg", "What is it?", "A dog.", kind="conversation", type="thing"),
        sample("lost.jpg", "Where?", "There."),
        sample("a.jpg", "Describe it.", ATTACK, kind="detail"),
        sample(None, "Why?", "Because."),
    ]
    rejected = [
        {
            "reason": "contradicts",
            "detail": "no",
            "image": "a.jpg",
            "kind": "detail",
            "question": "Q",
            "answer": ATTACK,
        },
        {"reason": "empty caption", "image": "b.png", "id": "b"},
        {"reason": "refusal", "image": "b.png", "turns": [{"question": "One?", "answer": "Sorry."}]},
        {"reason": "split not on disk", "split": "val"},
    ]
    return write_folder(tmp_path, samples, rejected, responses)


def scripts(text: str) -> dict[str, Any]:
    """The data of a page by name and number."""
    found = re.findall(r'gallery\("(\w+)",(\d+),(.*)\);', text)
    return {f"{name}-{number}": json.loads(value) for name, number, value in found}


def test_pictures_outside_the_image_root_are_not_shown(tmp_path: Path) -> None:
    data = write_folder(tmp_path, [sample("a.jpg", "What?", "A dog."), sample("lost-1", "What?", "A cat.")])
    Image.new("RGB", (640, 480), "red").save(tmp_path / "secret.png")
    (tmp_path / "coco" / "lost-link.png").symlink_to(tmp_path / "secret.png")
    rows = [sample(name, "What?", "x") for name in ("../secret.png", str(tmp_path / "secret.png"), "lost-link.png")]
    (data / "instruct.json").write_text(json.dumps([sample("a.jpg", "What?", "A dog."), *rows]))
    report = write_gallery(data)
    assert (report.pictures, report.unreadable) == (4, 3)
    shown = scripts(report.out.read_text(encoding="utf-8"))["pictures-0"]
    assert [bool(picture["data"]) for picture in shown] == [True, False, False, False]


def test_a_small_gallery_is_one_file_with_everything(folder: Path) -> None:
    report = write_gallery(folder)
    assert report.out == folder / "gallery.html"
    assert (report.pictures, report.of_pictures, report.kept, report.rejected) == (4, 4, 4, 3)
    assert (report.pages, report.unreadable, report.elsewhere) == (1, 1, 1)
    text = report.out.read_text()
    assert report.size == len(text.encode())
    assert sorted(path.name for path in folder.iterdir() if "gallery" in path.name) == ["gallery.html"]
    data = scripts(text)
    one, lost, words, other = data["pictures-0"]
    assert (one["image"], one["captions"]) == ("a.jpg", ["a dog", ATTACK])
    assert one["boxes"] == [["dog", 0.1, 0.2, 0.5, 1.0, 0]]
    assert one["samples"] == [
        {"turns": [["What is it?", "A dog."]]},
        {"turns": [["Describe it.", ATTACK]]},
        {"turns": [["Q", ATTACK]], "detail": "no"},
    ]
    with Image.open(io.BytesIO(base64.b64decode(one["data"]))) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("JPEG", (320, 240))
    assert (lost["image"], lost["data"]) == ("lost.jpg", "")
    assert (words["image"], words["data"]) == ("", "")
    assert [entry["turns"] for entry in other["samples"]] == [[], [["One?", "Sorry."]]]
    index = data["index-0"]
    assert index["reasons"] == ["contradicts", "empty caption", "refusal"]
    assert [[code // 100_000 for code in codes] for codes in index["codes"]] == [[0, 0, 1], [0], [0], [2, 3]]
    assert index["kinds"] == ["conversation", "detail", "picture"]
    assert data["texts-0"][0][0].startswith("a dog <script>document")


def test_no_text_of_the_data_becomes_markup_and_nothing_is_fetched(folder: Path) -> None:
    text = write_gallery(folder).out.read_text()
    assert "hacked" in text
    assert "<script>document" not in text
    assert "<b>bold" not in text
    assert text.count("<script") == text.count("</script>") == 5  # code, three data scripts, start
    assert "innerHTML" not in text
    assert not re.search(r"https?://|@import|url\(", text)


def test_a_large_gallery_is_split_and_replaces_itself(tmp_path: Path) -> None:
    count = INLINE_PICTURES + 2
    folder = write_folder(tmp_path, [sample(f"{n:03d}.jpg", "What?", f"Number {n}.") for n in range(count)])
    report = write_gallery(folder)
    pages = folder / "gallery_pages"
    files = -(-count // FILE_PICTURES)
    names = sorted(path.name for path in pages.iterdir())
    assert names == ["index-00000.js", *(f"pictures-{n:05d}.js" for n in range(files)), "texts-00000.js"]
    assert (report.pictures, report.pages) == (count, 6)
    assert report.size == report.out.stat().st_size + sum(path.stat().st_size for path in pages.iterdir())
    assert report.out.stat().st_size < 40_000
    assert 'src="gallery_pages/index-00000.js"' in report.out.read_text()
    last = scripts((pages / f"pictures-{files - 1:05d}.js").read_text())
    assert [picture["image"] for picture in last[f"pictures-{files - 1}"]] == ["100.jpg", "101.jpg"]
    assert write_gallery(folder, limit=5).pictures == 5
    assert not pages.exists()
    shown = scripts((folder / "gallery.html").read_text())["pictures-0"]
    assert [picture["image"] for picture in shown] == ["000.jpg", "020.jpg", "040.jpg", "061.jpg", "081.jpg"]


def test_out_may_be_elsewhere_and_its_folder_may_have_blanks(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [sample(f"{n:03d}.jpg", "What?", "That.") for n in range(INLINE_PICTURES + 1)])
    report = write_gallery(folder, tmp_path / "new place" / "my page.html")
    assert 'src="my%20page_pages/index-00000.js"' in report.out.read_text()
    assert (tmp_path / "new place" / "my page_pages" / "index-00000.js").is_file()


def test_foreign_files_are_not_replaced(folder: Path) -> None:
    (folder / "gallery_pages").mkdir()
    (folder / "gallery_pages" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis.txt was not written by the gallery; choose another --out"):
        write_gallery(folder)
    assert (folder / "gallery_pages" / "thesis.txt").read_text() == "mine"


def test_other_layouts_of_json_are_read(folder: Path) -> None:
    rows = json.loads((folder / "instruct.json").read_text())
    before = scripts(write_gallery(folder).out.read_text())
    for layout in ({"indent": 2}, {}):
        (folder / "instruct.json").write_text(json.dumps(rows, **layout))  # type: ignore[arg-type]
        assert scripts(write_gallery(folder).out.read_text()) == before


def test_pictures_are_turned_as_their_camera_says_and_broken_ones_counted(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [sample("a.jpg", "Q", "A"), sample("b.jpg", "Q", "A")])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (640, 480)).save(tmp_path / "coco" / "a.jpg", exif=exif)
    (tmp_path / "coco" / "b.jpg").write_bytes(b"no picture")
    report = write_gallery(folder)
    first, second = scripts(report.out.read_text())["pictures-0"]
    assert (first["width"], first["height"]) == (240, 320)
    assert (report.unreadable, second["data"]) == (1, "")


def test_bad_input_is_told_in_one_line(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"data folder .*nowhere does not exist; write one with `qllava gen-data"):
        write_gallery(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"--limit 0 shows no picture; give 1 or more"):
        write_gallery(folder, limit=0)
    with pytest.raises(UsageError, match=r"is a folder; name the HTML file to write"):
        write_gallery(folder, tmp_path)
    with (folder / "rejected.jsonl").open("a") as file:
        file.write('{"reason": \n')
    with pytest.raises(DataError, match=r"rejected.jsonl, line 5: not JSON \(.*\); write it again with"):
        write_gallery(folder)
    for content, problem in (
        ("[{", "is not JSON"),
        ('{"a": 1}', "is not a list of objects"),
        ("[\n3\n]", "not a list"),
    ):
        (folder / "instruct.json").write_text(content)
        with pytest.raises(DataError, match=rf"instruct.json.* {problem}"):
            write_gallery(folder)
    (folder / "card.json").unlink()
    with pytest.raises(UsageError, match=r"has no card.json; name a folder that `qllava gen-data` wrote"):
        write_gallery(folder)
    assert not (folder / "gallery.html").exists()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def dumped(page: Path, profile: Path, view: str = "") -> str:
    """The page's document after its scripts ran, opened from the disk."""
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=5000", "--dump-dom", f"{page.as_uri()}{view}"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_in_a_real_browser(tmp_path: Path, folder: Path) -> None:
    page = write_gallery(folder).out
    text = dumped(page, tmp_path / "profile")
    assert "<title>data · gallery</title>" in text  # the script in a caption did not run
    assert "&lt;script&gt;document.title" in text
    assert len(re.findall("<article>", text)) == 4
    assert "4 pictures, 4 samples kept, 3 rejected, teacher template" in text
    assert 'class="box' in text
    text = dumped(page, tmp_path / "profile", "#status=rejected&query=sorry")
    assert len(re.findall("<article>", text)) == 1
    assert "<mark>Sorry</mark>" in text


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_pages_of_a_large_gallery_load_from_the_disk(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [sample(f"{n:03d}.jpg", "What?", f"Number {n}.") for n in range(120)])
    page = write_gallery(folder).out
    text = dumped(page, tmp_path / "profile", "#page=5")
    assert "6 / 6" in text
    assert re.findall(r"Number (\d+)\.", text) == [str(n) for n in range(100, 120)]
    text = dumped(page, tmp_path / "profile", "#query=number+117")
    assert re.findall(r"<mark>Number (\d+)</mark>", text) == ["117"]
