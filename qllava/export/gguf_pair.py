"""`--to gguf` as a table of contents: language model, vision, and both read back by other code than wrote them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from qllava.checkpoint.load import LoadedRun, load_run
from qllava.checkpoint.manifest import Run
from qllava.checkpoint.weights import llava_of
from qllava.errors import ModelError, UsageError
from qllava.export.card import model_card
from qllava.export.gates import Gate, into_fp32
from qllava.export.gguf_text import check_family, write_text_model
from qllava.export.gguf_vision import check_vision, needed_layers, shape_note, vision_tensors, write_vision
from qllava.export.hugging_face import write_merged
from qllava.export.merge import merged_tensors
from qllava.export.probe import choose_probes
from qllava.files import atomic_directory
from qllava.model.quantize import LANGUAGE_MODEL

TEXT = "model.gguf"
VISION = "mmproj.gguf"
# A 16-bit float holds 11 bits: half a unit in the last of them, relative to the number itself.
_FP16_ROUNDING = 2.0**-11
_SMALLEST = 6e-8  # below this fp16 has no more numbers
MOST_TEXT_ERROR = 0.02


def export_gguf(
    run: Run, out: Path, *, device: str, note: Callable[[str], None], llama_cpp: Path | None = None
) -> tuple[int, list[Gate], list[str]]:
    """Write `model.gguf` and `mmproj.gguf` into `out`, which appears whole or not at all.

    Args:
        run: finished.
        out: new.
        device: where the run is loaded.
        note: told what is being done.
        llama_cpp: a llama.cpp checkout whose own converter writes the language model.

    Returns:
        Bytes of weights, comparisons that held, and what else there is to know.

    Raises:
        ModelError: a family that is not known here, or a file that reads back otherwise than it was written.
        UsageError: `llama_cpp` is no checkout.
    """
    converter = None if llama_cpp is None else _converter(llama_cpp)
    note("loading the run")
    loaded = load_run(run, device=device)
    config: Any = llava_of(loaded.model).config
    check_vision(config)
    if converter is None:
        check_family(config.text_config)
    with atomic_directory(out.resolve()) as aside:
        note("writing the language model")
        if converter is None:
            size = write_text_model(loaded, aside / TEXT, out.name)
        else:
            size = _convert(converter, loaded, aside / TEXT)
        note("writing tower and projector")
        size += write_vision(loaded, aside / VISION, f"{out.name} vision")
        note("reading both back")
        lines = check_words(loaded, aside)
        gates = [check_vision_file(loaded, aside / VISION), check_text_file(loaded, aside)]
        if shape := shape_note(loaded.recipe.data.image_aspect):
            lines.append(shape)
        if config.vision_config.model_type == "clip_vision_model":
            lines.append(
                "llama.cpp misplaces CLIP's class token (its issue 25814, see docs/gguf.md): answers get worse"
            )
        card = model_card(run, "gguf", out.name, gates, merged_into="the dequantised NF4 base")
        (aside / "README.md").write_text(card, encoding="utf-8")
    return size, gates, lines


def check_vision_file(loaded: LoadedRun, path: Path) -> Gate:
    """Every tensor of the mmproj file, by gguf's reader, equals the run's.

    Raises:
        ModelError: one is missing, left over, or differs.
    """
    stored = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    config: Any = llava_of(loaded.model).config
    kept = min(needed_layers(config) + 1, config.vision_config.num_hidden_layers)
    worst = 0.0
    for name, array in vision_tensors(loaded, kept):
        if name not in stored:
            raise ModelError(f"{path.name} lacks {name}")
        found = np.asarray(stored.pop(name).data)
        if found.shape != array.shape:
            raise ModelError(f"{path.name}: {name} is {found.shape}, not {array.shape}")
        worst = max(worst, float(np.abs(found.astype(np.float32) - array.astype(np.float32)).max()))
    if stored:
        raise ModelError(f"{path.name} holds {next(iter(stored))}, which the run does not have")
    return Gate("mmproj tensors read back, largest difference", worst, 0.0).hold()


@torch.no_grad()
def check_text_file(loaded: LoadedRun, folder: Path) -> Gate:
    """The language model as transformers reads it from the GGUF, tensor by tensor against the merged run.

    Raises:
        ModelError: one is missing or differs by more than fp16's rounding.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=TEXT, dtype=torch.float32)
    stored = dict(model.named_parameters())
    worst = 0.0
    for name, tensor in merged_tensors(loaded.model):
        if not name.startswith((LANGUAGE_MODEL, "lm_head.")):
            continue
        plain = f"model.{name.removeprefix(LANGUAGE_MODEL)}" if name.startswith(LANGUAGE_MODEL) else name
        if plain not in stored:
            raise ModelError(f"transformers does not find {plain} in {TEXT}")
        found, expected = stored[plain], tensor.float().cpu()
        if found.shape != expected.shape:
            raise ModelError(f"{TEXT}: {plain} is {tuple(found.shape)}, not {tuple(expected.shape)}")
        allowed = expected.abs() * _FP16_ROUNDING + _SMALLEST
        worst = max(worst, float(((found - expected).abs() / allowed).max()))
    Gate("text tensors against the merged run, in units of fp16 rounding", worst, 1.01).hold()
    return _compare_text(loaded, model)


def check_words(loaded: LoadedRun, folder: Path) -> list[str]:
    """The tokenizer in the file writes the probes' tokens.

    Raises:
        ModelError: it writes others.
    """
    again: Any = AutoTokenizer.from_pretrained(folder, gguf_file=TEXT)
    ours = loaded.encoder.tokenizer
    texts = [
        part["text"]
        for probe in choose_probes(loaded).samples
        for message in probe.conversation.messages
        for part in message["content"]
        if part["type"] == "text"
    ]
    for text in [*texts, "It costs 12,345.67 dollars; isn't that 3x too much?\n\nYes  - two   spaces."]:
        found, expected = (t.encode(text, add_special_tokens=False) for t in (again, ours))
        if found != expected:
            raise ModelError(f"{TEXT} splits {text[:60]!r} into other tokens than training did; use --to hf")
    return [f"tokenizer read back: the same tokens for {len(texts) + 1} texts"]


def _compare_text(loaded: LoadedRun, model: Any) -> Gate:
    """Logits of text alone, by the file's model and by the run."""
    llava = llava_of(loaded.model)
    into_fp32(loaded.model)
    ids = torch.linspace(0, model.config.vocab_size - 1, 32).long()[None]
    expected = llava(input_ids=ids.to(loaded.device)).logits.float().cpu()
    found = model(input_ids=ids).logits
    error = float((found - expected).abs().max() / expected.abs().max())
    return Gate("text logits in fp16 weights, relative", error, MOST_TEXT_ERROR).hold()


def _converter(checkout: Path) -> Path:
    script = checkout / "convert_hf_to_gguf.py"
    if not script.is_file():
        raise UsageError(f"--llama-cpp {checkout} holds no convert_hf_to_gguf.py; name a llama.cpp checkout")
    return script


def _convert(script: Path, loaded: LoadedRun, target: Path) -> int:
    """The language model by llama.cpp's own converter, from a merged folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        write_merged(loaded, Path(folder))
        done = subprocess.run(
            [sys.executable, str(script), folder, "--outtype", "f16", "--outfile", str(target)],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0 or not target.is_file():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"{script} failed: {last}")
    return target.stat().st_size
