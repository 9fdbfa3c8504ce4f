"""Pictures nobody has to trust: the zoo is read by a process with bounded memory and time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qllava.pictures import MOST_BYTES, PictureError, decode_image, open_image
from tests.picture_zoo import QUARTERS, Odd, quarters, save, zoo

SECONDS = 240.0
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def animals() -> dict[str, Odd]:
    listed = list(zoo())
    assert len({odd.name for odd in listed}) == len(listed)
    return {odd.name: odd for odd in listed}


@pytest.fixture(scope="module")
def outcomes(animals: dict[str, Odd], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("zoo")
    for odd in animals.values():
        (folder / odd.name).write_bytes(odd.content)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    command = [sys.executable, "-m", "tests.read_zoo", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_zoo_is_large(animals: dict[str, Odd], outcomes: dict[str, Any]) -> None:
    assert len(animals) >= 160
    assert outcomes.keys() == animals.keys() | {"folder.png", "pipe.png", "sparse.png"}


def test_each_is_right_or_refused_by_name(animals: dict[str, Odd], outcomes: dict[str, Any]) -> None:
    wrong = []
    for name, odd in animals.items():
        found = outcomes[name]
        if odd.reason is not None:
            right = found.get("reason") == odd.reason and name in found["message"] and "\n" not in found["message"]
        else:
            right = found.get("mode") == "RGB" and found["headed"] and _close(found["corners"], odd)
            right = right and odd.size in (None, tuple(found["size"]))
        if not right:
            wrong.append((name, odd.reason or odd.corners[:1], found))
    assert not wrong, "\n".join(map(str, wrong))


def test_what_is_no_file_is_not_waited_for(outcomes: dict[str, Any]) -> None:
    assert "folder.png is no file" in outcomes["folder.png"]["message"]
    assert "pipe.png is no file" in outcomes["pipe.png"]["message"]
    assert outcomes["sparse.png"]["reason"] == "too_large"


def test_size_and_shape_are_told_by_the_header(outcomes: dict[str, Any]) -> None:
    for name in ("20000x20000.png", "20000x20000.bmp", "65535x65535.gif", "1x201.png", "program.eps", "page.jpg"):
        assert not outcomes[name]["headed"]
    assert outcomes["cut8.jpeg"]["headed"]
    assert "10,000 x 10,000 pixels, more than 89,478,485" in outcomes["10000x10000.png"]["message"]
    assert "is 1 x 201 pixels, thinner than 200:1" in outcomes["1x201.png"]["message"]
    assert "is a program (EPS), which is never run" in outcomes["program.eps"]["message"]


def test_bytes_are_read_as_files_are(tmp_path: Path) -> None:
    content = save(quarters(), "PNG")
    (tmp_path / "a.png").write_bytes(content)
    assert decode_image(content, "request").tobytes() == open_image(tmp_path / "a.png").tobytes()
    with pytest.raises(PictureError, match=r"image upload 3 is not a picture that PIL can read") as caught:
        decode_image(b"GIF8", "upload 3")
    assert caught.value.reason == "unreadable"


def test_a_draft_is_smaller_and_the_same_picture(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(save(quarters(1600, 800), "JPEG", quality=95))
    small = open_image(tmp_path / "a.jpg", draft=200)
    assert small.size == (400, 200)  # an eighth would have fewer than 200 rows
    odd = Odd("a", b"", corners=QUARTERS, tolerance=25)
    places = ((0, 0), (399, 0), (0, 199), (399, 199))
    assert _close([small.getpixel(place) for place in places], odd)


def _close(corners: list[Any], odd: Odd) -> bool:
    pairs = zip(corners, odd.corners, strict=True)
    return all(abs(a - b) <= odd.tolerance for one, two in pairs for a, b in zip(one, two, strict=True))
