from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from qllava_cli.main import main

from tests.data.tiny_tokenizers import byte_level

ROWS = [
    {
        "id": "one",
        "image": "a.jpg",
        "conversations": [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A cat."}],
    },
    {"id": "two", "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "é <|im_end|>"}]},
    {
        "id": "three",
        "image": "b.jpg",
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}],
    },
    {
        "id": "four",
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}] * 9,
    },
]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with data and a qllava.yaml that names a tokenizer and a tower's config made here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tower").mkdir()
    (tmp_path / "tower" / "config.json").write_text(
        '{"model_type": "clip_vision_model", "image_size": 8, "patch_size": 4}'
    )
    byte_level().save_pretrained(tmp_path / "words")
    (tmp_path / "words" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "qllava.yaml").write_text(
        "recipe: smol\nmodel: {language_model: words, vision_tower: tower}\ndata: {max_length: 100}\n"
    )
    for name in ("instruct.json", "align.json"):
        (tmp_path / name).write_text(json.dumps(ROWS))
    return tmp_path


def _show(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    assert main(["data", "show", *arguments]) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


@pytest.mark.usefixtures("workplace")
def test_samples_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = _show(capsys, "instruct.json", "--limit", "4")
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    one = (
        "\none  a.jpg  58 tokens, 5 trained\n"
        f"{system}<|im_start|>user\n<image> x4\nWhat is this?<|im_end|>\n<|im_start|>assistant\n[[A cat.<|im_end|>]]\n"
    )
    assert out.startswith(one)
    assert "<|im_start|>assistant\n[[é <\u200b|im_end|><|im_end|>]]\n" in out
    assert "three  b.jpg  rejected (image_mismatch): 1 images but 0 <image> placeholders; write one " in out
    assert "four  no image  " in out
    assert " turns cut to fit 100\n" in out
    assert "template chatml (stage finetune; --stage)" in err
    assert "recipe smol (qllava.yaml)" in err
    assert "4 of 4 samples; --limit shows more, --json gives ids and labels" in err


@pytest.mark.usefixtures("workplace")
def test_samples_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = _show(capsys, "instruct.json", "--json")
    one, two, three = map(json.loads, out.splitlines())
    assert set(one) == {"id", "images", "dropped_turns", "escaped", "input_ids", "labels", "pieces"}
    assert (one["id"], one["images"], one["dropped_turns"], one["escaped"]) == ("one", ["a.jpg"], 0, 0)
    assert len(one["input_ids"]) == len(one["labels"]) == len(one["pieces"]) == 58
    assert one["pieces"].count("<image>") == 4
    trained = [index for index, label in enumerate(one["labels"]) if label != -100]
    assert "".join(one["pieces"][index] for index in trained) == "A cat.<|im_end|>"
    assert [one["labels"][index] for index in trained] == [one["input_ids"][index] for index in trained]
    assert two["escaped"] == 1
    assert three == {
        "id": "three",
        "images": ["b.jpg"],
        "rejected": "image_mismatch",
        "message": "1 images but 0 <image> placeholders; write one <image> in the questions for each image",
    }


@pytest.mark.usefixtures("workplace")
def test_the_stage_follows_the_file_or_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    caption, err = _show(capsys, "align.json", "--limit", "2")
    assert "template plain (stage align; --stage)" in err
    assert "<|begin_of_text|><image> x4[[A cat.\n]]" in caption
    assert "two  no image  rejected (text_only): stage 1 leaves out samples without an image" in caption
    _, err = _show(capsys, "align.json", "--stage", "2", "--limit", "1")
    assert "template chatml" in err
    _, err = _show(capsys, "align.json", "--set", "align_template=chat", "--limit", "1")
    assert "template chatml (stage align; --stage)" in err


@pytest.mark.usefixtures("workplace")
def test_colour_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    out, _ = _show(capsys, "instruct.json", "--limit", "1")
    assert "\x1b[1;4;32mA cat.<|im_end|>\x1b[0m" in out
    assert "[[" not in out
    monkeypatch.setenv("NO_COLOR", "1")
    out, _ = _show(capsys, "instruct.json", "--limit", "1")
    assert "\x1b[1;4mA cat.<|im_end|>\x1b[0m" in out


@pytest.mark.usefixtures("workplace")
def test_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", "nothing.json"]) == 1
    assert capsys.readouterr().err == (
        "error: data file nothing.json does not exist; write one with `qllava gen-data --images FOLDER`\n"
    )
    assert main(["data", "show", "instruct.json", "--stage", "3"]) == 2
    assert main(["data", "show", "instruct.json", "--set", "template=chatlm"]) == 2
    assert "unknown chat template 'chatlm'; did you mean chatml?" in capsys.readouterr().err


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from qllava_cli.main import main; main(['data', 'show', '--help']); "
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
