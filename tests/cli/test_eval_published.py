"""`eval scienceqa`, `eval llava-bench`, `eval score-reviews` and `data convert scienceqa` as people run them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from qllava_cli.eval_llava_bench import llava_bench
from qllava_cli.eval_science_qa import scienceqa
from qllava_cli.eval_score_reviews import score_reviews
from qllava_cli.main import main

from qllava.errors import DataError, UsageError
from tests.datagen.conftest import TeacherServer, server
from tests.evaluate.bench_folder import candidate, write_coco, write_lines, write_wild
from tests.evaluate.science_qa_folder import problem, write_science_qa
from tests.infer.tiny_run import tiny_recipe, write_run

__all__ = ["server"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    root = tmp_path_factory.mktemp("trained")
    return write_run(root / "runs" / "finetune-001", tiny_recipe(root))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def run(function: Callable[..., None], *arguments: object) -> None:
    """The command as `qllava eval` will run it."""
    app = typer.Typer()
    app.callback()(lambda: None)
    app.command("it")(function)
    command = typer.main.get_command(app)
    command.main(args=["it", *map(str, arguments)], prog_name="qllava eval", standalone_mode=False)


SHORT = {
    "1": problem(question="Red?", choices=["a", "b"], image="image.png", solution=""),
    "2": problem(question="Two?", choices=["a", "b", "c"], answer=2, hint="h", subject="natural science"),
    "3": problem(question="Why?", choices=["a", "b"], grade="grade9", subject="language science"),
}


def test_scienceqa_answers_scores_and_goes_on(here: Path, trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_science_qa(here / "sqa", SHORT)
    arguments = ["sqa", "--run", trained, "--out", "out", "--max-new-tokens", 4]
    run(scienceqa, *arguments, "--limit", 2)
    out, err = capfd.readouterr()
    assert "LLaVA + GPT-4 judge" in out
    assert "ours: 2, not comparable" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "answers name no choice and count as wrong" in err
    answers = here / "out" / "answers.jsonl"
    assert len(answers.read_text().splitlines()) == 3
    run(scienceqa, *arguments, "--json")
    out, err = capfd.readouterr()
    told = json.loads(out)
    assert "2 of 3 answers are in out/answers.jsonl already" in err
    assert told == json.loads((here / "out" / "result.json").read_text())
    assert told["scores"][told["model"]]["columns"]["Avg"]["asked"] == 3
    assert told["format"] == "qcm-lepa"
    before = answers.read_bytes()
    run(scienceqa, *arguments)
    assert answers.read_bytes() == before
    capfd.readouterr()
    with pytest.raises(DataError, match=r"holds answers of another \w+ .*choose another --out"):
        run(scienceqa, *arguments, "--format", "cqm-a")


def test_scienceqa_scores_a_file_alone_or_with_a_helper(
    here: Path, server: TeacherServer, capfd: pytest.CaptureFixture[str]
) -> None:
    write_science_qa(here / "sqa", SHORT, pictures=False)
    write_lines(here / "mine.jsonl", [{"question_id": k, "text": "The answer is A."} for k in "123"])
    run(scienceqa, "sqa", "--answers", "mine.jsonl", "--json")
    scores = json.loads(capfd.readouterr().out)["scores"]["mine"]["columns"]
    assert (scores["Avg"]["right"], scores["SOC"]["right"], scores["NAT"]["right"]) == (2, 1, 0)
    run(scienceqa, "sqa", "--answers", "mine.jsonl", "--limit", 1)
    assert "ours: 1, not comparable" in capfd.readouterr().out
    how = ["--helper", "tiny", "--base-url", server.start(), "--ensemble", "judge"]
    run(scienceqa, "sqa", "--answers", "mine.jsonl", *how)
    out, err = capfd.readouterr()
    rows = [line.split("  ")[0].strip() for line in out.splitlines()]
    assert "mine" in rows
    assert any("with tiny, judge" in line for line in out.splitlines())
    assert "helper tiny (temperature 0; http://127.0.0.1" in err
    assert "tiny named no choice in" in err
    assert json.loads((here / "mine-scienceqa" / "result.json").read_text())["ensemble"]["helper"] == "tiny"


@pytest.mark.parametrize("write", [write_wild, write_coco])
def test_llava_bench_answers_has_judged_and_asks_nothing_again(
    here: Path, trained: Path, server: TeacherServer, capfd: pytest.CaptureFixture[str], write: Any
) -> None:
    write(here / "bench")
    arguments = ["bench", "--run", trained, "--out", "out", "--judge", "tiny", "--max-new-tokens", 6]
    arguments += ["--base-url", server.start(outcome_share=0.3, fault_share=0.2, faults=["429"], retry_after=0.01)]
    run(llava_bench, *arguments, "--swap")
    out, err = capfd.readouterr()
    assert "judge: tiny; rules: " in out
    assert ("judged by gpt-4-0314: not comparable with tiny" in out) == (write is write_wild)
    assert max(map(len, out.splitlines())) <= 80
    assert "requests 12" in err
    outcomes = server.outcomes()
    run(llava_bench, *arguments, "--swap", "--json")
    out, err = capfd.readouterr()
    assert server.outcomes() == outcomes
    assert "requests 0 (12 are answered already)" in err
    told = json.loads(out)
    assert (told["judge"], told["judgements"]) == ("tiny", 12)
    run(score_reviews, "out/reviews.jsonl", "--json")
    (again,) = json.loads(capfd.readouterr().out)
    assert again["scores"] == told["scores"]
    run(score_reviews, "out/reviews.jsonl", "out/reviews.jsonl")
    out = capfd.readouterr().out
    assert "comparable" not in out
    assert out.count("judge tiny") == 2


def test_llava_bench_judges_a_file(here: Path, server: TeacherServer, capfd: pytest.CaptureFixture[str]) -> None:
    write_wild(here / "bench")
    rows = [{"question_id": int(k), "text": v} for k, v in candidate(6).items()]
    write_lines(here / "mine.jsonl", rows[:5])
    run(llava_bench, "bench", "--answers", "mine.jsonl", "--judge", "tiny", "--base-url", server.start())
    assert "questions without an answer, in no score: 1" in capfd.readouterr().out
    assert {path.name for path in (here / "mine-llava-bench").iterdir()} == {
        "report.html",
        "result.json",
        "reviews.jsonl",
        "verdicts.jsonl",
    }


def test_money_needs_leave(here: Path, server: TeacherServer) -> None:
    write_wild(here / "bench")
    write_lines(here / "mine.jsonl", [{"question_id": 0, "text": "x"}])
    (here / "prices.yaml").write_text("tiny: {input: 1.0, output: 1.0}\n")
    arguments = ["bench", "--answers", "mine.jsonl", "--judge", "tiny", "--base-url", server.start(), "--prices"]
    with pytest.raises(UsageError, match=r"1 requests to .* for about 0.00 USD, and nobody to ask; add --yes or"):
        run(llava_bench, *arguments, "prices.yaml")
    assert not (server.folder / "log.jsonl").read_text()
    run(llava_bench, *arguments, "prices.yaml", "--yes")


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        (scienceqa, ["sqa", "--ensemble", "judge"], "--ensemble judge needs a language model; name it with --helper"),
        (scienceqa, ["sqa", "--helper", "x"], "--helper x does nothing alone; add --ensemble"),
        (scienceqa, ["sqa", "--format", "x"], "--format x is not known"),
        (scienceqa, ["sqa", "--run", "r", "--answers", "a"], "--answers scores a file; --run and --model answer anew"),
        (llava_bench, ["b", "--judge", "j"], "no server for --judge j: set OPENAI_API_KEY"),
    ],
)
def test_flags_that_do_not_go_together(
    here: Path, server: TeacherServer, function: Any, arguments: list[str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        run(function, *arguments)


def test_convert_writes_what_train_reads(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_science_qa(here / "sqa", {k: v | {"split": "train"} for k, v in SHORT.items()})
    assert main(["data", "convert", "scienceqa", "sqa", "--format", "qcm-lepa", "--out", "sqa.json"]) == 0
    err = capfd.readouterr().err
    assert "samples 3 (1 with a picture)" in err
    assert "--recipe llava-v1-7b-scienceqa --data sqa.json --images sqa/images" in err
    rows = json.loads((here / "sqa.json").read_text())
    assert [row.get("image") for row in rows] == ["train/1/image.png", None, None]
    assert rows[0]["conversations"][1]["value"].endswith("###\nANSWER: A.")
    assert main(["data", "convert", "scienceqa", "sqa", "--split", "dev", "--out", "x.json"]) == 2
    assert "--split dev is not in" in capfd.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys, typer
from qllava_cli.eval_science_qa import scienceqa
from qllava_cli.eval_llava_bench import llava_bench
from qllava_cli.eval_score_reviews import score_reviews
from qllava_cli.data import data_app
app = typer.Typer()
for f in (scienceqa, llava_bench, score_reviews): app.command(f.__name__)(f)
app.add_typer(data_app, name="data")
command = typer.main.get_command(app)
for words in ([], ["scienceqa"], ["llava_bench"], ["score_reviews"], ["data", "convert", "scienceqa"]):
    command.main(args=[*words, "--help"], standalone_mode=False)
heavy = {"torch", "transformers", "datasets", "PIL", "openai", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
