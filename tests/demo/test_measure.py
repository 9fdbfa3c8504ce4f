import json
from pathlib import Path

import pytest
from PIL import Image

from qllava.demo.measure import gate, measure, sheet_choice
from qllava.demo.workspace import write_workspace
from qllava.evaluate.exact_match import Score, Scores
from qllava.evaluate.questions import Question
from qllava.evaluate.vqa import VqaScores
from tests.infer.tiny_run import load_tiny


def scores(right: float, shuffled: float) -> dict[str, VqaScores]:
    shares = {"right": right, "shuffled": shuffled}
    return {name: VqaScores(Scores(Score(round(100 * v), 100), {}), None, {}) for name, v in shares.items()}


@pytest.mark.parametrize(
    ("right", "shuffled", "failures"),
    [
        (0.76, 0.43, []),
        (0.75, 0.10, ["exact match with the right picture is 0.75, below 0.76"]),
        (
            0.80,
            0.60,
            ["the right picture adds 0.20 over a shuffled one (0.80 against 0.60), below 0.33"],
        ),
    ],
)
def test_the_gate(right: float, shuffled: float, failures: list[str]) -> None:
    assert gate(scores(right, shuffled)) == failures  # type: ignore[arg-type]


def test_both_failures_are_told() -> None:
    assert len(gate(scores(0.2, 0.2))) == 2  # type: ignore[arg-type]


def test_measures_a_run_and_writes_scores_and_sheet(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    write_workspace(folder, 1, train=1, heldout=3)
    (folder / "data").mkdir()
    (folder / "data" / "card.json").write_text('{"image_root": "../coco"}')
    pictures = sorted(path.name for path in (folder / "coco" / "val2017").iterdir())
    rows = [
        {"id": f"{n}-{kind}", "image": f"val2017/{name}", "question": "How many?", "answers": ["two"], "type": kind}
        for n, name in enumerate(pictures)
        for kind in ("count", "color")
    ]
    (folder / "data" / "heldout.jsonl").write_text("\n".join(map(json.dumps, rows)))
    calls: list[tuple[str, int, int]] = []
    measured = measure(folder, load_tiny(tmp_path), progress=lambda *call: calls.append(call))
    found = {name: score.exact for name, score in measured.scores.items()}
    assert list(found) == ["right", "shuffled", "none"]
    assert calls[-1] == ("none", 6, 6)
    assert all(result.overall.asked == 6 and set(result.by_kind) == {"color", "count"} for result in found.values())
    assert measured.sight is not None
    assert (measured.sight.samples, measured.sight.pictures) == (6, 3)
    written = json.loads((folder / "scores.json").read_text())
    assert written["run"] == "finetune-001"
    assert written["conditions"]["right"]["asked"] == 6
    assert written["failures"] == gate(measured.scores)
    assert written["sees"]["looks"] is measured.sight.looks
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_the_sheet_takes_every_kind_in_turn_and_fresh_pictures() -> None:
    questions = [Question(f"{kind}{n}", f"{n}.jpg", "?", ("x",), kind) for kind in "abc" for n in range(4)]
    chosen = sheet_choice(questions, 4)
    assert [question.kind for question in chosen] == ["a", "b", "c", "a"]
    assert len({question.image for question in chosen}) == 4
    assert len(sheet_choice(questions[:2], 12)) == 2
