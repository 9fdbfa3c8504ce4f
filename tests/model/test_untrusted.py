"""Models from anywhere: what would run code is refused, and no code runs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import qllava
from qllava.errors import ModelError
from qllava.model.build import load_language_model, load_tower
from qllava.model.tokenizer import load_tokenizer
from tests.tiny import save_language_model, save_tower


class Payload:
    """What an attacker puts into a pickle: a call that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def with_pickled_weights(folder: Path, mark: Path) -> Path:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Payload(mark)}, folder / "pytorch_model.bin")
    return folder


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_payload_works_where_it_is_loaded_carelessly(tmp_path: Path) -> None:
    torch.save(Payload(tmp_path / "ran"), tmp_path / "evil.bin")
    torch.load(tmp_path / "evil.bin", weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["language model", "tower"])
def test_a_pickle_with_code_is_refused(tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "ran"
    with pytest.raises(ModelError, match="is refused: its weights are a pickle that holds more than tensors"):
        if kind == "tower":
            load_tower(str(with_pickled_weights(save_tower(tmp_path / "tower"), mark)), device="cpu")
        else:
            folder = with_pickled_weights(save_language_model(tmp_path / "lm"), mark)
            load_language_model(str(folder), quantization="none", device="cpu")
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["model", "tokenizer"])
def test_a_model_with_code_of_its_own_is_refused_without_asking(tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "ran"
    folder = save_language_model(tmp_path / "lm")
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    with pytest.raises(ModelError, match="is refused: it wants code of its own to be run, which qllava never does"):
        if kind == "model":
            auto = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
            change(folder / "config.json", model_type="evil", auto_map=auto)
            load_language_model(str(folder), quantization="none", device="cpu")
        else:
            auto_tokenizer = {"AutoTokenizer": ["evil.Model", "evil.Model"]}
            change(folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map=auto_tokenizer)
            load_tokenizer(str(folder))
    assert not mark.exists()


def test_every_loading_call_says_no_to_remote_code_and_none_unpickles() -> None:
    root = Path(qllava.__file__).parent
    calls = [
        (path.name, node)
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    loading = [
        (name, call) for name, call in calls if _called(call).startswith("Auto") and "pretrained" in _called(call)
    ]
    assert len(loading) >= 5
    for name, call in loading:
        settings = {keyword.arg: keyword.value for keyword in call.keywords}
        trusted = settings.get("trust_remote_code")
        # A GGUF file holds no code, and transformers looks for none beside it.
        assert "gguf_file" in settings or (isinstance(trusted, ast.Constant) and trusted.value is False), name
    forbidden = {"torch.load", "pickle.load", "pickle.loads", "yaml.load", "joblib.load"}
    assert not [(name, _called(call)) for name, call in calls if _called(call) in forbidden]
    arrays = [(name, call) for name, call in calls if _called(call) in {"np.load", "numpy.load"}]
    for name, call in arrays:
        pickled = {keyword.arg: keyword.value for keyword in call.keywords}.get("allow_pickle")
        assert isinstance(pickled, ast.Constant), name
        assert pickled.value is False, name


def _called(call: ast.Call) -> str:
    return ast.unparse(call.func)
