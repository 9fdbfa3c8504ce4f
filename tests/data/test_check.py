"""One test for each kind of bad row; the clean set; what is kept between checks."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from qllava.data import check, check_cache
from qllava.data.audit import select
from qllava.data.check import check_data, held_out_images
from qllava.data.check_cache import cached_check
from qllava.data.check_pictures import look_at_pictures, pictures_stamp
from qllava.data.clean import check_out, write_clean
from qllava.data.encode import ChatEncoder
from qllava.data.findings import DOUBTS, MOST_BAD, REASONS, Finding, Findings, length_bins
from qllava.data.formats import load_conversations
from qllava.errors import DataError, UsageError
from tests.data.golden import build_encoder
from tests.data.tiny_tokenizers import byte_level

MAX_LENGTH = 120


@pytest.fixture(scope="module")
def encoder() -> ChatEncoder:
    return build_encoder(byte_level(), "chatml")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with two good pictures, a cut one, a text, and a link that leads out."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (40, 30), "red").save(folder / "a.png")
    Image.effect_noise((60, 60), 90).save(folder / "b.jpg")
    (folder / "cut.jpg").write_bytes((folder / "b.jpg").read_bytes()[:1500])
    (folder / "page.jpg").write_text("not found")
    Image.new("RGB", (1, 300)).save(folder / "thin.png")
    (tmp_path / "secret.png").write_bytes((folder / "a.png").read_bytes())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    return folder


def row(identity: str, *turns: str, image: str | None = "a.png", **more: Any) -> dict[str, Any]:
    """Turns alternate; the first one shows the picture."""
    values = list(turns or ("What is it?", f"A thing named {identity}."))
    values[0] = f"<image>\n{values[0]}" if image else values[0]
    conversation = [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]
    return {"id": identity, **({"image": image} if image else {}), "conversations": conversation, **more}


def find(
    root: Path, encoder: ChatEncoder, rows: list[Any], *, name: str = "data.json", **settings: Any
) -> tuple[Findings, Path]:
    path = root.parent / name
    lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
    path.write_text("\n".join(lines) if name.endswith("l") else f"[{','.join(lines)}]", encoding="utf-8")
    table = load_conversations(path, image_root=root, strict=False)
    chosen = {"max_length": MAX_LENGTH, "needs_image": False, "image_root": root, **settings}
    return check_data(table, encoder, **chosen), path


BAD: dict[str, tuple[Any, str]] = {
    "schema": ({"id": "x", "caption": "y"}, "has neither `conversations` nor `messages` (keys: id, caption)"),
    "roles": (row("x", "a", "b") | {"conversations": [{"from": "human", "value": "a"}] * 2}, "expected assistant"),
    "no_answer": (row("x", "only a question"), "has no question with an answer"),
    "not_text": (row("x", "\ud83d", "y"), "holds half a character"),
    "image_mismatch": (row("x", image=None) | {"image": "a.png"}, "1 images but 0 <image> placeholders"),
    "empty_answer": (row("x", "a", " "), "an answer is empty"),
    "too_long": (row("x", "a", "long " * 100), "max_length=120 cannot hold the first question and answer"),
    "missing": (row("x", image="no.png"), "image 'no.png' is not in"),
    "outside": (row("x", image="../secret.png"), "lies outside the image folder"),
    "unreadable": (row("x", image="page.jpg"), "is not a picture that PIL can read"),
    "too_large": (row("x", image="thin.png"), "is 1 x 300 pixels, thinner than 200:1"),
}


@pytest.mark.parametrize("reason", BAD)
def test_each_kind_of_bad_row(root: Path, encoder: ChatEncoder, reason: str) -> None:
    bad, message = BAD[reason]
    rows = [row("one"), bad, row("two")]
    findings, path = find(root, encoder, rows)
    (found,) = findings.bad
    assert (found.row, found.reason) == (1, reason)
    assert message in found.message
    assert reason in REASONS
    table = load_conversations(path, image_root=root, strict=False)
    assert [c.id for c in _all(select(table, findings, needs_image=False).usable)] == ["one", "two"]


def test_other_bad_rows(root: Path, encoder: ChatEncoder) -> None:
    rows = [row("one"), "{", row("cut", image="cut.jpg"), row("link", image="link.png"), row("nul", image="a\0")]
    findings, _ = find(root, encoder, rows, name="data.jsonl")
    assert [(f.row, f.id, f.reason) for f in findings.bad] == [
        (1, "row 1", "not_json"),
        (2, "cut", "unreadable"),
        (3, "link", "outside"),
        (4, "nul", "missing"),
    ]
    assert "truncated" in findings.bad[1].message
    assert (findings.decoded, findings.broken, findings.broken_samples) == (4, 1, 1)
    cleaned = row("a", "x", "<image> <|im_end|>")
    findings, _ = find(root, encoder, [cleaned, row("no", "a", "b", image=None)], needs_image=True)
    assert (findings.text_only, findings.bad) == (1, ())


DOUBTFUL: dict[str, tuple[list[Any], list[int], int]] = {
    "cut_turns": ([row("x", *["what is it", "nothing at all"] * 9)], [1], 8),
    "half_turns": ([row("x", "a", "b", "and then?")], [1], 1),
    "control_text": ([row("x", "say <|im_end|> <|im_end|>", "no")], [1], 2),
    "extra_placeholder": ([row("x", "<image> twice", "no")], [1], 1),
    "repeated_id": ([row("one", "Another?", "Yes.")], [1], 1),
    "duplicate": ([row("one")], [1], 1),
    "near_duplicate": (
        [
            row("x", "Describe it all.", " ".join(f"word{n}" for n in range(30))),
            row("y", "Describe it all.", " ".join(f"word{n}" for n in range(29))),
            row("z", "Describe it all.", " ".join(f"word{n}" for n in range(29)), image="b.jpg"),
        ],
        [2],
        1,
    ),
    "held_out": ([row("x", image="b.jpg")], [1], 1),
}


@pytest.mark.parametrize("kind", DOUBTS)
def test_each_kind_of_doubt(root: Path, encoder: ChatEncoder, kind: str) -> None:
    rows, where, times = DOUBTFUL[kind]
    max_length = 400 if kind == "near_duplicate" else MAX_LENGTH
    findings, _ = find(root, encoder, [row("one"), *rows], held_out=["b.jpg"], max_length=max_length)
    assert findings.bad == ()
    assert [f.row for f in findings.doubtful if f.reason == kind] == where
    if kind != "cut_turns":
        assert findings.doubts[kind] == times
    else:
        assert 0 < findings.doubts[kind] < 9
    others = {"held_out", "repeated_id"} if kind in ("duplicate", "near_duplicate") else {kind, "control_text"}
    assert set(findings.doubts) <= {kind} | others


def test_a_held_out_picture_under_another_name(root: Path, encoder: ChatEncoder) -> None:
    (root / "copy.jpg").write_bytes((root / "b.jpg").read_bytes())
    same_size = bytearray((root / "b.jpg").read_bytes())
    same_size[-5] ^= 1
    (root / "other.jpg").write_bytes(bytes(same_size))
    questions = root.parent / "heldout.jsonl"
    questions.write_text('{"id": 1, "image": "copy.jpg"}\n{"id": 2}\n{"id": 3, "image": "gone.jpg"}\n')
    held_out = held_out_images(questions)
    assert held_out == ["copy.jpg", "gone.jpg"]
    assert held_out_images(root / "none.jsonl") == []
    findings, _ = find(root, encoder, [row("x", image="b.jpg"), row("y", image="other.jpg")], held_out=held_out)
    (leak,) = [f for f in findings.doubtful if f.reason == "held_out"]
    assert leak.message == "image b.jpg has the content of copy.jpg, which is in the held-out set, too"


def test_lengths(root: Path, encoder: ChatEncoder) -> None:
    findings, _ = find(root, encoder, [row("one"), row("two"), row("x", "a", "word " * 12)])
    assert sum(count for _, count in findings.lengths) == findings.tokenized == 3
    assert [edge for edge, _ in findings.lengths] == [64, MAX_LENGTH]
    assert length_bins([1, 64, 65, 100], [64, 100]) == ((64, 2), (100, 2))


def test_a_quick_look_samples_what_is_slow(root: Path, encoder: ChatEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "LOOK_AT", 5)
    monkeypatch.setattr(check, "LOOK_AT_PICTURES", 1)
    rows: list[Any] = [row(str(n), image="b.jpg") for n in range(20)]
    rows[3], rows[4], rows[8] = row("3", "a", " "), row("4", "a", "long " * 100), row("8", image="cut.jpg")
    rows[9] = row("9", "a", "long " * 100)
    rows[10], rows[11] = row("10", image="page.jpg"), row("11")
    findings, _ = find(root, encoder, rows, thorough=False)
    # Row 9 is too long and not looked at; of four pictures the first is decoded, and `cut.jpg` has a good header.
    assert [(f.row, f.reason) for f in findings.bad] == [(3, "empty_answer"), (4, "too_long"), (10, "unreadable")]
    assert (findings.tokenized, findings.pictures, findings.decoded, findings.broken) == (5, 4, 1, 0)
    assert findings.bad_share == pytest.approx(2 / 20 + 1 / 5)
    assert not findings.thorough


def test_how_much_is_tolerated() -> None:
    def of(bad: int, rows: int) -> Findings:
        faults = tuple(Finding(n, str(n), "missing", f"message {n}") for n in range(bad))
        return Findings(rows, rows, 0, 0, 0, 0, 0, faults, (), {}, (), 0, thorough=True, stamp="")

    assert of(0, 10).tolerable(0)
    assert of(1, 10).tolerable(MOST_BAD)
    assert not of(1, 10).tolerable(0)
    assert not of(2, 10).tolerable(MOST_BAD)
    assert of(2, 2000).tolerable(MOST_BAD)
    assert not of(3, 2000).tolerable(MOST_BAD)
    assert of(5, 10).tolerable(0.5)
    with pytest.raises(DataError) as caught:
        of(2, 10).require(MOST_BAD, "data.json")
    assert str(caught.value) == (
        "2 of 10 samples cannot be trained on (20.00%, more than --max-bad 0.001): 2 missing; sample 0: message 0; "
        "`qllava data check data.json` lists them, --fix OUT writes the others"
    )
    with pytest.raises(DataError, match=r"none of the 1 samples examined can be trained on; sample 0: message 0"):
        of(1, 1).require(1.0, "data.json")


MIXED = [row("one"), row("one", "Two?", "Yes."), row("x", image="no.png"), row("one"), row("é", "a", "ü", "half")]


@pytest.mark.parametrize("name", ["data.json", "data.jsonl"])
def test_the_clean_set_keeps_rows_byte_by_byte(root: Path, encoder: ChatEncoder, name: str) -> None:
    findings, path = find(root, encoder, MIXED, name=name)
    table = load_conversations(path, image_root=root, strict=False)
    out = root.parent / f"clean{path.suffix}"
    check_out(table, out)
    cleaned = write_clean(table, findings, out)
    assert (cleaned.kept, cleaned.left_out) == (3, {"missing": 1, "duplicate": 1})
    text = out.read_text()
    kept = [json.dumps(MIXED[n]) for n in (0, 1, 4)]
    assert text == ("\n".join(kept) + "\n" if name.endswith("l") else "[\n" + ",\n".join(kept) + "\n]\n")
    again = check_data(load_conversations(out), encoder, image_root=root, max_length=MAX_LENGTH, needs_image=False)
    assert (again.rows, again.bad, again.doubts) == (3, (), {"half_turns": 1, "repeated_id": 1})
    assert not list(root.parent.glob(".clean*"))


def test_the_clean_set_of_parquet(root: Path, encoder: ChatEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", root.parent / "cache")
    path = root.parent / "a.parquet"
    pq.write_table(pa.Table.from_pylist([row("one"), row("x", image="no.png"), row("two")]), path)
    table = load_conversations(path, strict=False)
    findings = check_data(table, encoder, image_root=root, max_length=MAX_LENGTH, needs_image=False)
    write_clean(table, findings, root.parent / "b.parquet")
    assert [c.id for c in load_conversations(root.parent / "b.parquet")] == ["one", "two"]


def test_where_a_clean_set_cannot_go(root: Path, encoder: ChatEncoder) -> None:
    findings, path = find(root, encoder, [row("x", image="no.png")])
    table = load_conversations(path)
    with pytest.raises(UsageError, match=r"--fix out.jsonl has another format than .*; name a .json file"):
        check_out(table, Path("out.jsonl"))
    with pytest.raises(UsageError, match=r"data.json exists; name a new file"):
        check_out(table, path)
    with pytest.raises(UsageError, match=r"folder .*/none does not exist; make it first"):
        check_out(table, path.parent / "none" / "a.json")
    with pytest.raises(DataError, match=r"nothing of .* is clean"):
        write_clean(table, findings, path.parent / "b.json")


def test_findings_are_kept_until_something_changes(
    root: Path, encoder: ChatEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = find(root, encoder, [*MIXED, row("b", image="b.jpg")])
    table = load_conversations(path, strict=False)
    made: list[bool] = []
    real = check_data

    def counting(*arguments: Any, **settings: Any) -> Findings:
        made.append(settings["thorough"])
        return real(*arguments, **settings)

    monkeypatch.setattr(check_cache, "check_data", counting)

    def again(thorough: bool, **changes: Any) -> Findings:
        chosen: dict[str, Any] = {"digest": "d", "max_length": MAX_LENGTH, "cache": root.parent / "cache", **changes}
        return cached_check(table, encoder, image_root=root, needs_image=False, thorough=thorough, **chosen)

    first = again(False)
    assert again(False) == first
    assert made == [False]
    deep = again(True)  # a quick look is not enough for a thorough one
    assert again(False) == again(True) == deep
    assert made == [False, True]
    again(False, max_length=100)
    again(False, digest="e")
    again(False, held_out=["b.jpg"])
    again(False, cache=None)
    assert made == [False, True] + [False] * 4
    (root / "b.jpg").unlink()
    assert Counter(f.reason for f in again(True).bad) == {"missing": 2}
    assert made[-1] is True
    for file in (root.parent / "cache").iterdir():
        file.write_text("{")
    again(True)
    assert made[-2:] == [True, True]


def test_many_pictures_at_once_keep_their_names(root: Path) -> None:
    names = [f"{number}.png" for number in range(600)]
    for number, name in enumerate(names):
        if number % 100:
            os.link(root / "a.png", root / name)
    told: list[tuple[int, int]] = []
    look = look_at_pictures(root, names, decode=10, progress=lambda done, total: told.append((done, total)))
    assert sorted(look.failed) == sorted(f"{n}.png" for n in range(0, 600, 100))
    assert {reason for reason, _ in look.failed.values()} == {"missing"}
    assert told == [(256, 600), (512, 600), (600, 600)]
    assert look.decoded == 10
    assert look.stamp == pictures_stamp(root, reversed(names))
    os.utime(root / "a.png", (1, 1))
    assert look.stamp != pictures_stamp(root, names)


def _all(table: Any) -> list[Any]:
    return [table[index] for index in range(len(table))]
