"""`qllava eval` as people run it: tables and JSON on stdout, files that go on, refusals in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from qllava_cli.main import main

from qllava.evaluate.answer_file import AnswerFile, read_answers
from qllava.evaluate.score_file import read_scores
from qllava.plan import device
from tests.evaluate.published_model import FOREIGN, publish
from tests.infer.tiny_run import picture, tiny_recipe, write_run

RUN = Path("runs/finetune-001")


@pytest.fixture(autouse=True)
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "nvidia_present", lambda: False)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: a finished tiny run, four pictures, eight questions."""
    write_run(tmp_path / RUN, tiny_recipe(tmp_path / "models"))
    (tmp_path / "coco").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "card.json").write_text('{"image_root": "../coco"}')
    rows = []
    for n in range(4):
        picture(20 + 60 * n, 200 - 40 * n).save(tmp_path / "coco" / f"{n}.png")
        for kind, question in (("color", "What color is the circle?"), ("count", "How many?")):
            rows.append(
                {"id": f"{n}{kind}", "image": f"{n}.png", "question": question, "answers": ["two"], "type": kind}
            )
    (tmp_path / "data" / "heldout.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "data" / "instruct.json").write_text(
        json.dumps(
            [
                {
                    "id": row["id"],
                    "image": row["image"],
                    "conversations": [
                        {"from": "human", "value": f"<image>\n{row['question']}"},
                        {"from": "gpt", "value": "two"},
                    ],
                }
                for row in rows
            ]
        )
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


VQA = ["eval", "vqa", "data/heldout.jsonl", "--max-new-tokens", "4"]


def test_vqa_prints_a_table_and_leaves_answers_scores_and_a_report(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*VQA, "--condition", "right", "--condition", "none"]) == 0
    out, err = capfd.readouterr()
    assert "Exact match (95 % interval)" in out
    assert "right picture" in out
    assert "no picture" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "run runs/finetune-001 (1 steps; --run)" in err
    assert "questions 8 of data/heldout.jsonl (--limit)" in err
    folder = RUN / "eval" / "vqa-heldout"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *(f"{name}{suffix}" for name in ("answers", "scores") for suffix in (".jsonl", "-none.jsonl")),
        "report.html",
        "report-none.html",
        "result.json",
    }
    heading, answers = read_answers(folder / "answers.jsonl")
    assert (heading.benchmark, heading.model, heading.template) == ("vqa", "runs/finetune-001", "chatml")
    assert heading.settings == {"condition": "right", "max_new_tokens": 4, "sampling": "greedy"}
    assert len(answers) == len(read_scores(folder).rows) == 8
    result = json.loads((folder / "result.json").read_text())
    assert result["conditions"]["none"]["exact_match"]["asked"] == 8


def test_a_second_run_asks_nothing_and_a_limit_is_extended(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*VQA, "--limit", "3", "--json"]) == 0
    first = json.loads(capfd.readouterr().out)
    assert first["asked"] == 3
    path = RUN / "eval" / "vqa-heldout" / "answers.jsonl"
    some = read_answers(path)[1]
    assert main([*VQA, "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["asked"] == 8
    assert "3 of 8 answers are in runs/finetune-001/eval/vqa-heldout already" in err
    every = read_answers(path)[1]
    assert {name: every[name] for name in some} == some
    # Nothing is loaded for answers that are there: the weights may be gone.
    before = path.read_bytes()
    (place / RUN / "projector.safetensors").unlink()
    assert main([*VQA, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["conditions"] == json.loads(out)["conditions"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("condition", ["right", "shuffled"])
def test_ctrl_c_keeps_the_answers_and_says_how_to_go_on(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, condition: str
) -> None:
    """Asked in two goes, each question is shown the picture that one go shows it."""
    command = [*VQA, "--condition", condition]
    assert main([*command, "--out", "whole"]) == 0
    append, kept = AnswerFile.append, 3

    def stopping(self: AnswerFile, identity: str, answer: str) -> None:
        if len(self.answers) == kept:
            raise KeyboardInterrupt
        append(self, identity, answer)

    monkeypatch.setattr(AnswerFile, "append", stopping)
    monkeypatch.setattr(sys, "argv", ["qllava", *command, "--out", "halves"])
    capfd.readouterr()
    assert main([*command, "--out", "halves"]) == 130
    err = " ".join(capfd.readouterr().err.split())
    assert "stopped; 3 of 8 answers are kept in halves; `qllava eval vqa data/heldout.jsonl" in err
    monkeypatch.setattr(AnswerFile, "append", append)
    assert main([*command, "--out", "halves"]) == 0
    name = "answers.jsonl" if condition == "right" else "answers-shuffled.jsonl"
    assert read_answers(place / "halves" / name)[1] == read_answers(place / "whole" / name)[1]


def test_a_published_model_stands_in_the_same_table(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, _, _ = publish(place / "other", template=FOREIGN)
    assert main([*VQA, "--model", str(out.relative_to(place))]) == 0
    err = capfd.readouterr().err
    assert "model other/published (as published; --model)" in err
    heading, _ = read_answers(place / "eval" / "other-published" / "vqa-heldout" / "answers.jsonl")
    assert heading.template == "its own"
    assert heading.settings["quantization"] == "none"
    assert main(VQA) == 0
    capfd.readouterr()
    folders = ["eval/other-published/vqa-heldout", "runs/finetune-001/eval/vqa-heldout"]
    assert main(["eval", "compare", *folders, "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["models"] == {"a": "other/published", "b": "runs/finetune-001"}
    assert sum(result["questions"].values()) == 8
    assert main(["eval", "compare", *folders]) == 0
    printed = capfd.readouterr()
    assert "B minus A (95 % interval)" in printed.out
    assert max(map(len, printed.out.splitlines())) <= 80
    assert "verdict no difference is shown" in printed.err


def test_sees_says_that_a_random_model_does_not_look(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "sees"]) == 0
    out, err = capfd.readouterr()
    assert "Answers to 8 samples about 4 pictures (95 % interval)" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "data questions of data/heldout.jsonl (8 of them; --data, --limit)" in err
    assert "verdict the model does NOT look: the picture makes no difference; loss " in err
    assert "warning: this model answers the same whatever it is shown" in err
    assert json.loads((place / RUN / "eval/sees/result.json").read_text())["looks"] is False
    assert main(["eval", "sees", "--data", "data/instruct.json", "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["pictures"] == 4
    assert "data samples of data/instruct.json" in err


def test_ask_sets_models_side_by_side(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    published, _, _ = publish(place / "other", template=FOREIGN)
    (place / "prompts.txt").write_text("What is this?\n\nHow many?\n")
    command = ["eval", "ask", "coco", "--prompts", "prompts.txt", "--max-new-tokens", "4", "--against"]
    capfd.readouterr()  # saving a model prints a line break
    assert main([*command, str(published)]) == 0
    out = capfd.readouterr().out
    page = RUN / "eval" / "ask-coco" / "answers.html"
    assert out == f"{page}\n"
    html = page.read_text()
    assert '"columns":["runs/finetune-001",' in html
    names = sorted(path.name for path in page.parent.iterdir())
    assert len(names) == 3
    said = [read_answers(page.parent / name)[1] for name in names if name.endswith(".jsonl")]
    assert [len(each) for each in said] == [8, 8]
    assert said[0] != said[1]
    assert main([*command, "runs/finetune-001"]) == 2
    assert "error: --against names a model that is asked already" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["vqa", "none.jsonl"], 1, "question file none.jsonl does not exist"),
        (["vqa", "data/empty.jsonl"], 1, "holds no question"),
        (["vqa", "data/twice.jsonl"], 1, "line 2: id '1' was used on line 1; ids must differ"),
        (["vqa", "data/lost.jsonl"], 1, "1 of 2 pictures are missing; the first: image 'lost.png' is not in"),
        (["vqa", "data/heldout.jsonl", "--images", "nowhere"], 2, "--images nowhere is not a folder"),
        (["vqa", "data/heldout.jsonl", "--run", "a", "--model", "b"], 2, "--run a and --model b name two models"),
        (["vqa", "data/heldout.jsonl", "--nf4"], 2, "--nf4 is for --model"),
        (["vqa", "data/heldout.jsonl", "--run", "data"], 1, "data is no run folder"),
        (["vqa", "data/heldout.jsonl", "--model", "runs/finetune-001"], 2, "is a run of qllava; give it with --run"),
        (["vqa", "data/heldout.jsonl", "--model", "coco"], 1, "model coco cannot be loaded"),
        (["sees", "--data", "none.json"], 1, "data file none.json does not exist"),
        (["sees", "--data", "data/one.jsonl"], 1, "show fewer than two pictures"),
        (["compare", "data", "data"], 1, "score file data/scores.jsonl does not exist"),
        (["ask", "nowhere", "--prompts", "p"], 1, "prompt file p does not exist"),
        (["ask", "nowhere", "--prompts", "data/card.json"], 2, "picture folder nowhere does not exist"),
        (["ask", "data", "--prompts", "data/card.json"], 2, "data holds no picture"),
        (["ask", "coco", "--prompts", "data/empty.jsonl"], 1, "prompt file data/empty.jsonl is empty"),
    ],
)
def test_bad_input_is_one_clear_line(
    place: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    row = {"id": "1", "image": "0.png", "question": "?", "answers": ["two"]}
    (place / "data" / "empty.jsonl").write_text("\n")
    (place / "data" / "one.jsonl").write_text(json.dumps(row))
    (place / "data" / "twice.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    (place / "data" / "lost.jsonl").write_text(
        f"{json.dumps(row)}\n{json.dumps(row | {'id': 2, 'image': 'lost.png'})}\n"
    )
    assert main(["eval", *arguments]) == code
    printed = capfd.readouterr()
    assert printed.out == ""
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (place / "eval").exists()


def test_answers_of_another_set_are_refused_by_default_and_by_out(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*VQA, "--limit", "2"]) == 0
    rows = (place / "data" / "heldout.jsonl").read_text().splitlines()
    (place / "data" / "heldout.jsonl").write_text("\n".join(rows[1:]))
    capfd.readouterr()
    assert main([*VQA, "--limit", "2"]) == 1
    assert "answers.jsonl holds answers of another question set" in capfd.readouterr().err
    assert main([*VQA, "--limit", "2", "--out", "fresh"]) == 0


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from qllava_cli.main import main\n"
        "for name in ('vqa', 'sees', 'ask', 'compare'): assert main(['eval', name, '--help']) == 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'PIL', 'numpy', 'openai'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_a_picture_is_in_the_report(place: Path) -> None:
    assert main([*VQA, "--limit", "2"]) == 0
    with Image.open(place / "coco" / "0.png") as image:
        assert image.size == (48, 40)
    html = (place / RUN / "eval" / "vqa-heldout" / "report.html").read_text()
    assert '"width":48,"height":40' in html
    assert '"good":"right","bad":"wrong"' in html
    assert "accepted: two" in html
