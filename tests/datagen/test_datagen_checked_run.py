"""A whole run with the checks in it: what is about the picture stays, what the annotations deny is listed with why."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from qllava.datagen.merge import merge
from qllava.report.data_folder import DataFolder
from tests.datagen.conftest import TeacherServer
from tests.datagen.teacher_server import LIES
from tests.datagen.test_datagen_model_run import accounted, data_files, job, lines, run, samples, wanted_samples

HONEST: dict[str, Any] = {"answers": "about the picture"}


def test_what_the_captions_say_is_kept(tmp_path: Path, server: TeacherServer) -> None:
    wanted = job(tmp_path, server.start(**HONEST), pictures=30)
    result, _ = run(wanted)
    assert result.report is not None
    assert result.report.rejected == {}
    assert {(sample["id"].rsplit("#", 1)[0], sample["kind"]) for sample in samples(wanted.out)} == wanted_samples(
        wanted
    )


def test_every_lie_is_found_and_nothing_else(tmp_path: Path, server: TeacherServer) -> None:
    wanted = job(tmp_path, server.start(**HONEST, lies=0.5), pictures=60)
    result, _ = run(wanted)
    assert result.report is not None
    answers = lines(wanted.out / "responses.jsonl")[1:]
    texts = {answer["key"]: answer["response"]["choices"][0]["message"]["content"] for answer in answers}
    lied = {key for key, text in texts.items() if any(lie in text for lie in LIES)}
    assert 20 < len(lied) < len(texts) - 20
    listed = lines(wanted.out / "rejected.jsonl")
    assert {row["response"] for row in listed} == lied
    assert {sample["response"] for sample in samples(wanted.out)} == texts.keys() - lied
    first = {row["response"]: row for row in reversed(listed)}
    reasons = {
        LIES[0]: "contradicts the boxes: count",
        LIES[1]: "contradicts the annotations: object",
        LIES[2]: "contradicts the boxes: relation",
    }
    for row in first.values():
        lie = next(lie for lie in LIES if lie in row["answer"])
        assert (row["reason"], row["question"] != "") == (reasons[lie], True)
    assert {row["reason"] for row in first.values()} == set(reasons.values())
    later = [row for row in listed if row["reason"] == "after a rejected turn"]
    assert {row["question"] for row in later} == {"Is it a drawing?"}
    assert sum(result.report.rejected.values()) == len(listed)
    assert accounted(wanted.out) == wanted_samples(wanted)
    # The gallery finds what the teacher was told, and both sorts of samples.
    with DataFolder(wanted.out) as folder:
        shown = [folder.picture(image) for image in folder.images]
    assert len(shown) == 60
    assert all(len(picture.captions) == 1 and len(picture.boxes) == 2 for picture in shown)
    assert sum(sample.reason is not None for picture in shown for sample in picture.samples) == len(listed)


def test_a_run_in_pieces_judges_the_same(tmp_path: Path, server: TeacherServer) -> None:
    """Duplicates hang on the order of the answers, which is that of the pictures however they came."""
    url = server.start(**HONEST, lies=0.3)
    wanted = job(tmp_path, url, pictures=40)
    run(wanted)
    pieces = replace(wanted, out=tmp_path / "pieces")
    for most in (7, 31, None):
        run(replace(pieces, max_requests=most))
    assert data_files(pieces.out) == data_files(wanted.out)


def test_shards_of_a_model_merge_into_the_whole(tmp_path: Path, server: TeacherServer) -> None:
    url = server.start(**HONEST, lies=0.3)
    wanted = job(tmp_path, url, pictures=40, limit=30)
    run(wanted)
    parts = [replace(wanted, out=tmp_path / f"part-{index}", shard=f"{index}/2") for index in (1, 2)]
    for part in parts:
        run(part)
    merged = merge(tmp_path / "merged", [part.out for part in parts])
    assert merged.lacking == ()
    whole, joined = data_files(wanted.out), data_files(tmp_path / "merged")
    for name in ("align.json", "instruct.json", "heldout.jsonl", "rejected.jsonl", "README.md"):
        assert joined[name] == whole[name], name
    cards = [json.loads(files["card.json"]) for files in (whole, joined)]
    for card in cards:  # the journal is in the order of arrival
        card["files"].pop("responses.jsonl", None)
    assert cards[0] == cards[1]
    assert cards[0]["counts"]["pictures"] == 30
    # The merged folder is one that the same command goes on with.
    result, _ = run(replace(wanted, out=tmp_path / "merged"))
    assert (result.asked.answered, result.asked.found) == (0, len(wanted_samples(wanted)))


def test_a_bare_folder_and_a_teacher_that_sees(tmp_path: Path, server: TeacherServer) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (30 + number, 20), "red").save(folder / f"{number}.png")
    url = server.start()
    wanted = job(tmp_path, url, images=folder, see=True)
    result, _ = run(wanted)
    assert result.report is not None
    assert (result.report.source, result.report.captions) == ("pictures only", 0)
    assert accounted(wanted.out) == wanted_samples(wanted)
    card = json.loads((wanted.out / "card.json").read_text())
    assert card["image_root"] == "../bare"
