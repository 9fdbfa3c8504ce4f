"""The data folder: exact files, the same bytes twice, nothing lost silently, nothing half written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qllava.datagen import pipeline
from qllava.datagen.instructions import BRIEF_INSTRUCTIONS
from qllava.datagen.pipeline import generate
from qllava.errors import DataError, UsageError

FILES = ["README.md", "align.json", "card.json", "heldout.jsonl", "instruct.json", "rejected.jsonl", "responses.jsonl"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_files_and_schema(coco: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    report = generate(coco, None, out, kinds=("detail", "conversation", "reasoning"))
    assert sorted(path.name for path in out.iterdir()) == FILES
    align, instruct = (json.loads((out / name).read_text()) for name in ("align.json", "instruct.json"))
    assert len(align) == report.captions == 10  # two of twelve have no caption
    assert len(instruct) == sum(report.by_kind.values()) == sum(report.by_type.values())
    for sample in (*align, *instruct):
        human, gpt = sample["conversations"]
        assert (human["from"], gpt["from"]) == ("human", "gpt")
        assert human["value"].startswith("<image>\n")
        assert "<image>" not in human["value"][8:] + gpt["value"]
        assert (coco / sample["image"]).is_file()
        assert sample["image"].startswith("train2017/")
    assert len({sample["id"] for sample in (*align, *instruct)}) == len(align) + len(instruct)
    assert {sample["conversations"][0]["value"][8:] for sample in align} <= set(BRIEF_INSTRUCTIONS)
    assert {sample["kind"] for sample in instruct} == {"conversation", "detail", "reasoning"}

    held_out = lines(out / "heldout.jsonl")
    assert {row["kind"] for row in held_out} == {"conversation"}
    assert all(row["image"].startswith("val2017/") and row["answers"] and row["question"] for row in held_out)
    counts = [row["answers"] for row in held_out if row["type"] == "count"]
    assert all(answers in (["1", "one"], ["2", "two"]) for answers in counts)

    responses = lines(out / "responses.jsonl")
    assert len(responses) == 18
    assert responses[0]["facts"]["counts"] == {"circle": 1, "square": 1}
    assert responses[0]["captions"] == ["a large red circle on the left and a small blue square at the top right"]
    assert responses[0]["boxes"][1] == {"category": "square", "box": [0.75, 0.05, 0.9, 0.2]}
    assert {row["teacher"] for row in responses} == {"template"}


def test_card(coco: Path, tmp_path: Path) -> None:
    report = generate(coco, None, tmp_path / "deep" / "data", seed=7)
    card = json.loads((report.out / "card.json").read_text())
    assert (report.out / card["image_root"]).resolve() == coco.resolve()
    assert card["image_root"] == "../../coco"
    assert (card["schema_version"], card["teacher"], card["model"], card["seed"]) == (1, "template", None, 7)
    assert card["counts"]["pictures"] == 12
    assert card["counts"]["held_out_pictures"] == 6
    assert card["counts"]["by_kind"] == dict(report.by_kind)
    assert sorted(card["files"]) == [name for name in FILES if name != "card.json"]
    for name, digest in card["files"].items():
        assert hashlib.sha256((report.out / name).read_bytes()).hexdigest() == digest
    text = (report.out / "README.md").read_text()
    assert "`template` teacher" in text
    assert "license:" in text
    assert "| conversation |" in text


def test_the_same_command_gives_the_same_bytes(coco: Path, tmp_path: Path) -> None:
    def run(name: str, seed: int) -> dict[str, bytes]:
        generate(coco, None, tmp_path / name, seed=seed)
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    first = run("data", 1)
    assert run("data", 1) == first
    assert run("other", 1) == first
    second = run("third", 2)
    assert second["instruct.json"] != first["instruct.json"]
    held = [{row["image"] for row in map(json.loads, one["heldout.jsonl"].splitlines())} for one in (first, second)]
    assert held[0] == held[1]


def test_missing_pictures_and_captions_are_counted_and_listed(tmp_path: Path, split: Callable[..., None]) -> None:
    pictures = [(["a red circle"], [("circle", [10, 10, 20, 20])])] * 6
    pictures[1] = (["a picture of <IMAGE> tags", "a circle"], [("circle", [10, 10, 20, 20])])
    pictures[2] = (["", "<image>"], [("circle", [10, 10, 20, 20])])
    split(tmp_path / "coco", "train2017", pictures, skip=[5, 6])
    split(tmp_path / "coco", "val2017", pictures[:1], first=50)
    split(tmp_path / "coco", "extra", pictures[:2], first=70, skip=[70, 71])
    report = generate(tmp_path / "coco", None, tmp_path / "data")
    assert (report.pictures, report.missing, report.absent_splits) == (4, 2, {"extra": 2})
    assert report.rejected == {"caption holds <image>": 2, "empty caption": 1, "no caption to align with": 1}
    rejected = lines(tmp_path / "data" / "rejected.jsonl")
    assert [row["image"] for row in rejected if row["reason"] == "picture not on disk"] == [
        "train2017/000000000005.jpg",
        "train2017/000000000006.jpg",
    ]
    assert {"reason": "split not on disk", "split": "extra", "pictures": 2} in rejected
    assert "tags" not in (tmp_path / "data" / "align.json").read_text()


def test_limit_keeps_a_stable_choice(coco: Path, tmp_path: Path) -> None:
    report = generate(coco, None, tmp_path / "data", limit=3)
    assert (report.pictures, report.held_out) == (3, 3)
    with pytest.raises(UsageError, match="--limit 0"):
        generate(coco, None, tmp_path / "data", limit=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": "gpt"}, "--teacher 'gpt' is not known; choose one of: template"),
        ({"kinds": ("detail", "poem")}, "--kinds 'poem' is not known; choose some of: conversation,detail,reasoning"),
        ({"kinds": ()}, "--kinds '' is not known"),
        ({"questions": 0}, "--questions 0 asks nothing"),
    ],
)
def test_settings_that_cannot_work(coco: Path, tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        generate(coco, None, tmp_path / "data", **settings)
    assert not (tmp_path / "data").exists()


def test_data_of_others_is_not_written_over(coco: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    out.mkdir()
    (out / "instruct.json").write_text("[]")
    with pytest.raises(
        UsageError, match=r"instruct\.json was not written by the template teacher; choose another --out"
    ):
        generate(coco, None, out)
    assert (out / "instruct.json").read_text() == "[]"
    with pytest.raises(UsageError, match="is a file; name a folder"):
        generate(coco, None, out / "instruct.json")


def test_nothing_to_teach(tmp_path: Path, split: Callable[..., None]) -> None:
    split(tmp_path / "coco", "train", [([], [])] * 4)
    with pytest.raises(
        UsageError, match=r"coco has pictures and neither captions nor boxes \(COCO\).*--annotations PATH.*openai --see"
    ):
        generate(tmp_path / "coco", None, tmp_path / "data")
    # Boxes of crowds alone say nothing for sure.
    split(tmp_path / "coco", "train", [([], [("dog", [1, 1, 5, 5])])] * 4, crowds=(1, 2, 3, 4))
    with pytest.raises(DataError, match=r"no question follows from the annotations of .*coco; add instances_\*\.json"):
        generate(tmp_path / "coco", None, tmp_path / "data", kinds=("reasoning",))
    assert not (tmp_path / "data").exists()


def test_captions_alone_give_descriptions(tmp_path: Path, split: Callable[..., None]) -> None:
    split(tmp_path / "coco", "train", [(["a dog"], [])])
    (tmp_path / "coco" / "annotations" / "instances_train.json").unlink()
    report = generate(tmp_path / "coco", None, tmp_path / "data")
    assert (report.held_out, report.by_kind) == (0, {"conversation": 0, "detail": 1})
    (sample,) = json.loads((tmp_path / "data" / "instruct.json").read_text())
    assert sample["conversations"][1]["value"] == "A dog."


def test_descriptions_keep_the_paper_s_share(tmp_path: Path, split: Callable[..., None]) -> None:
    pictures = [(["a dog and a circle"], [("dog", [5, 5, 20, 20]), ("circle", [70, 70, 20, 20])])] * 300
    split(tmp_path / "coco", "train2017", pictures)
    split(tmp_path / "coco", "val2017", pictures[:1], first=1001)
    some = generate(tmp_path / "coco", None, tmp_path / "some")
    assert 0.3 < some.by_kind["detail"] / 300 < 0.5  # 23 of 58
    alone = generate(tmp_path / "coco", None, tmp_path / "alone", kinds=("detail",))
    assert alone.by_kind == {"detail": 300}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_run_leaves_what_was_there(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    out = tmp_path / "data"
    generate(coco, None, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise error

    with pytest.raises(error):
        generate(coco, None, out, seed=9, progress=stop)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(error):
        generate(coco, None, tmp_path / "fresh", progress=stop)
    assert not (tmp_path / "fresh").exists()


def test_progress_reaches_the_end(coco: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    generate(coco, None, tmp_path / "data", progress=lambda done, total: told.append((done, total)))
    assert told == [(n, 18) for n in range(1, 19)]


def test_yes_is_as_frequent_as_no(coco: Path, tmp_path: Path) -> None:
    generate(coco, None, tmp_path / "data")
    answers = [s["conversations"][1]["value"] for s in json.loads((tmp_path / "data" / "instruct.json").read_text())]
    answers += [row["answers"][0] for row in lines(tmp_path / "data" / "heldout.jsonl")]
    assert answers.count("yes") == answers.count("no") > 10


def test_eleven_different_instructions() -> None:
    assert len(set(BRIEF_INSTRUCTIONS)) == 11
    assert pipeline.DEFAULT_KINDS == ("conversation", "detail")


def test_a_description_and_a_sum_word_for_word(tmp_path: Path, split: Callable[..., None]) -> None:
    labels = [("dog", [5, 5, 20, 20]), ("circle", [70, 70, 20, 20]), ("circle", [70, 10, 20, 20])]
    split(tmp_path / "coco", "train", [(["A dog is sitting near two circles"], labels), ([], labels)])
    split(tmp_path / "coco", "val", [([], labels)], first=9)
    generate(tmp_path / "coco", None, tmp_path / "data", kinds=("detail", "reasoning"))
    samples = json.loads((tmp_path / "data" / "instruct.json").read_text())
    told = [sample["conversations"][1]["value"] for sample in samples if sample["kind"] == "detail"]
    assert told == [
        "A dog is sitting near two circles. There are two circles and one dog. The dog is at the top left.",
        "There are two circles and one dog. The dog is at the top left.",
    ]
    allowed = {
        "There are two circles and one dog. 2 is more than 1: yes.",
        "There is one dog and two circles. 1 is less than 2: no.",
        "There are two circles and one dog. 2 + 1 = 3.",
        "There is one dog and two circles. 1 + 2 = 3.",
    }
    assert {sample["conversations"][1]["value"] for sample in samples if sample["kind"] == "reasoning"} <= allowed
