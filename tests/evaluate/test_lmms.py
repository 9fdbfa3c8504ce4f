"""The lmms-eval adapter: its pieces alone, and lmms-eval itself over a local task where it is installed."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from qllava.errors import DataError, UsageError
from qllava.evaluate.lmms import answer_all, cut_at, prompt_of, run_folder
from qllava.infer.engine import Engine
from qllava.types import IMAGE, text
from tests.infer.tiny_run import load_tiny, picture

ROOT = Path(__file__).parents[2]
COLORS = [20, 120, 220, 250]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run under runs/, and four pictures."""
    root = tmp_path_factory.mktemp("lmms")
    load_tiny(root)
    for number, color in enumerate(COLORS):
        picture(color, 200 - 40 * number).save(root / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine(load_tiny(folder))


def messages(number: int, image: Any) -> list[dict[str, Any]]:
    content = [{"type": "image", "url": image}, {"type": "text", "text": f"How many, {number}?"}]
    return [{"role": "user", "content": content}]


def test_messages_become_prompts(folder: Path) -> None:
    shown = picture(9).convert("RGBA")
    turns, pictures = prompt_of([{"role": "system", "content": "Be short."}, *messages(1, shown)], "x")
    assert turns == [
        {"role": "system", "content": [text("Be short.")]},
        {"role": "user", "content": [IMAGE, text("How many, 1?")]},
    ]
    assert [p.mode for p in pictures] == ["RGB"]
    assert prompt_of(messages(1, str(folder / "0.png")), "x")[1][0].size == (48, 40)
    with pytest.raises(DataError, match="task t, document 3: a video cannot be shown to this model"):
        prompt_of([{"role": "user", "content": [{"type": "video", "url": "x"}]}], "task t, document 3")
    with pytest.raises(DataError, match="role 'tool' is unknown"):
        prompt_of([{"role": "tool", "content": "x"}], "x")


def test_answers_are_the_engines_under_each_tasks_settings(
    engine: Engine, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = [prompt_of(messages(n, str(folder / f"{n % 4}.png")), "x") for n in range(6)]
    settings: list[dict[str, Any]] = [{"max_new_tokens": 3 + n % 2, "until": ["\n\n"]} for n in range(6)]
    settings[5] |= {"temperature": 0.7, "do_sample": True}
    with caplog.at_level(logging.WARNING):
        answers = answer_all(engine, list(zip(prompts, settings, strict=True)))
    for prompt, setting, answer in zip(prompts, settings, answers, strict=True):
        assert answer == engine.answer_batch([prompt], max_new_tokens=setting["max_new_tokens"])[0]
    (warning,) = caplog.messages
    assert warning == "qllava answers greedily; the task's temperature=0.7, do_sample=True is not heeded"
    with pytest.raises(UsageError, match="max_new_tokens=0 cannot work"):
        answer_all(engine, [(prompts[0], {"max_new_tokens": 0})])


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        (None, "one\n\ntwo. three"),
        (["\n\n"], "one\n\ntwo. three"),
        ("two", "one"),
        (["three", ".", "\n\n"], "one\n\ntwo"),
        (["four", ""], "one\n\ntwo. three"),
    ],
)
def test_where_an_answer_ends(until: Any, expected: str) -> None:
    assert cut_at("one\n\ntwo. three", until) == expected


def test_which_run(tmp_path: Path) -> None:
    assert run_folder(None, "runs") == (Path("runs"), None)
    assert run_folder(str(tmp_path), "runs") == (Path("runs"), tmp_path)
    with pytest.raises(UsageError, match="--model_args run=nowhere is not a folder"):
        run_folder("nowhere", "runs")


@pytest.mark.skipif(find_spec("lmms_eval") is None, reason="lmms-eval is not installed (pip install qllava[lmms-eval])")
def test_a_local_task_runs_on_a_run_offline(engine: Engine, folder: Path) -> None:
    from datasets import Dataset, DatasetDict, Features, Image, Value

    prompts = [prompt_of(messages(n, str(folder / f"{n}.png")), "x") for n in range(4)]
    answers = engine.answer_batch(prompts, max_new_tokens=5)
    rows = {
        "image": [str(folder / f"{n}.png") for n in range(4)],
        "question": [f"How many, {n}?" for n in range(4)],
        # Three of four targets are what the run says.
        "answer": [*answers[:3], "something else"],
    }
    features = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    DatasetDict({"test": Dataset.from_dict(rows, features=features)}).save_to_disk(str(folder / "set"))
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "tiny_task.yaml").write_text(
        f"""
task: tiny_task
dataset_path: {folder / "set"}
dataset_kwargs: {{load_from_disk: true}}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 5, temperature: 0}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
    )
    (tasks / "utils.py").write_text("def visual(doc):\n    return [doc['image'].convert('RGB')]\n")
    # An installed qllava has this entry point in its metadata; a checkout that was installed before it has not.
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lmms_eval.models"]
    info = folder / "path" / "qllava_points-0.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qllava-points\nVersion: 0.0\n")
    (info / "entry_points.txt").write_text(f"[lmms_eval.models]\nqllava = {points['qllava']}\n")
    code = f"""
import json
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
done = simple_evaluate(
    model="qllava", model_args="run={folder / "runs" / "finetune-001"},device=cpu", tasks=["tiny_task"],
    task_manager=TaskManager(include_path={str(tasks)!r}, include_defaults=False), bootstrap_iters=0,
)
samples = [s["resps"][0][0] for s in sorted(done["samples"]["tiny_task"], key=lambda s: s["doc_id"])]
print("DONE", json.dumps([done["results"]["tiny_task"]["exact_match,none"], samples]))
"""
    path = os.pathsep.join([str(info.parent), str(ROOT), str(ROOT / "cli"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment, cwd=folder
    )
    line = next((line for line in done.stdout.splitlines() if line.startswith("DONE ")), None)
    assert line is not None, done.stderr[-3000:]
    accuracy, said = json.loads(line.removeprefix("DONE "))
    assert said == answers
    assert accuracy == 0.75
