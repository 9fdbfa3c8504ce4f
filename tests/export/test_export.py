"""Exports are the run: loaded by stock code, compared by ids, pixels, logits and answers, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from qllava.checkpoint.load import load_run
from qllava.checkpoint.manifest import Run, read_run
from qllava.checkpoint.published import load_published
from qllava.checkpoint.weights import llava_of
from qllava.data.images import open_image
from qllava.errors import ModelError, UsageError
from qllava.export import gates
from qllava.export.hugging_face import write_merged
from qllava.export.merge import merged_linear, merged_tensors
from qllava.export.names import published_name
from qllava.export.probe import choose_probes
from qllava.export.run import export
from qllava.export.shards import shard_files
from qllava.infer.engine import Engine
from qllava.model.precision import compute_dtype
from qllava.types import IMAGE, text
from tests.export.runs import make_run

SHAPES: list[dict[str, Any]] = [
    {"family": "llama", "aspect": "pad"},
    {"family": "llama", "projector": "linear", "tied": True, "aspect": "crop"},
    {"family": "qwen2", "tower": "siglip"},
    {"family": "mistral", "quantization": "none"},
]


def exported(run: Run, form: Any, out: Path, **more: Any) -> list[str]:
    notes: list[str] = []
    done = export(run, form, out, device="cpu", note=notes.append, **more)
    assert done.folder == out
    return [str(gate) for gate in done.gates] + list(done.lines)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
def test_merged_export_answers_as_the_run_does(tmp_path: Path, shape: dict[str, Any]) -> None:
    run = make_run(tmp_path, **shape)
    proofs = exported(run, "hf", tmp_path / "out")
    assert [proof.split(" ")[0] for proof in proofs] == ["worst", "bf16", "fp32", "held-out"]
    model, info = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    picture = open_image(tmp_path / "pictures" / "1.png")
    question = [{"type": "image", "image": picture}, {"type": "text", "text": "What color?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": question}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    made = model.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
    loaded = load_run(run, device="cpu")
    asked = [{"role": "user", "content": [IMAGE, text("What color?")]}]
    # In bf16, as the export is stored: rounding may turn a near tie of a random model.
    expected = Engine(loaded).answer_batch([(asked, [picture])], max_new_tokens=8)[0]  # type: ignore[list-item]
    found = processor.tokenizer.decode(made, skip_special_tokens=True)
    assert found.strip()[:1] == expected[:1]


@pytest.mark.parametrize("form", ["hf", "hf-4bit"])
def test_our_own_chat_reads_the_export(tmp_path: Path, form: str) -> None:
    run = make_run(tmp_path, aspect="pad")
    exported(run, form, tmp_path / "out")
    asked: Any = [{"role": "user", "content": [IMAGE, text("What color?")]}]
    prompts = [(asked, [open_image(tmp_path / "pictures" / f"{n}.png")]) for n in range(5)]
    expected = Engine(load_run(run, device="cpu")).answer_batch(prompts, max_new_tokens=1)
    found = Engine(load_published(str(tmp_path / "out"), device="cpu")).answer_batch(prompts, max_new_tokens=1)
    assert found == expected


def test_transformers_generates_what_our_chat_answers(tmp_path: Path) -> None:
    """What `transformers serve DIR` runs: the stock model, processor and generation config of one folder, greedy."""
    exported(make_run(tmp_path, aspect="pad"), "hf", tmp_path / "out")
    ours = load_published(str(tmp_path / "out"), device="cpu")
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=compute_dtype("cpu"))
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    for number in range(5):
        picture = open_image(tmp_path / "pictures" / f"{number}.png")
        content = [{"type": "image", "image": picture}, {"type": "text", "text": "What color is it?"}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        made = model.generate(**inputs, max_new_tokens=24)[0, inputs["input_ids"].shape[1] :]
        asked: Any = [{"role": "user", "content": [IMAGE, text("What color is it?")]}]
        (expected,) = Engine(ours).answer_batch([(asked, [picture])], max_new_tokens=24)
        found = processor.tokenizer.decode(made, skip_special_tokens=True)
        # Ours leaves out half a character where the answer was cut.
        assert found.strip().rstrip("\ufffd") == expected.strip()


def test_every_merged_weight_is_base_plus_ba(tmp_path: Path) -> None:
    loaded = load_run(make_run(tmp_path), device="cpu")
    (tmp_path / "out").mkdir()
    write_merged(loaded, tmp_path / "out", shard_bytes=100_000)
    stored = {name: tensor for path in shard_files(tmp_path / "out") for name, tensor in load_file(path).items()}
    assert len(shard_files(tmp_path / "out")) > 2
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == stored.keys()
    layer = llava_of(loaded.model).model.language_model.layers[1].self_attn.v_proj
    # The slow twin: what the layer does to unit vectors is its weight, column by column.
    columns = layer(torch.eye(layer.in_features)).T
    name = "language_model.model.layers.1.self_attn.v_proj.weight"
    assert torch.allclose(stored[name].float(), columns, rtol=2**-8, atol=1e-6)
    assert not torch.allclose(stored[name].float(), layer.base_layer(torch.eye(layer.in_features)).T, atol=1e-2)


def test_names_and_dtypes_are_those_of_published_checkpoints(tmp_path: Path) -> None:
    run = make_run(tmp_path, tied=True)
    exported(run, "hf", tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    assert "vision_tower.vision_model.embeddings.class_embedding" in stored
    assert "multi_modal_projector.linear_1.weight" in stored
    assert "language_model.lm_head.weight" not in stored  # tied
    config = (tmp_path / "out" / "config.json").read_text()
    assert "quantization_config" not in config
    assert str(tmp_path) not in config
    assert str(tmp_path) not in (tmp_path / "out" / "generation_config.json").read_text()


def test_four_bit_export_keeps_the_codes_and_the_adapter(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    before = llava_of(load_run(run, device="cpu").model)
    exported(run, "hf-4bit", tmp_path / "out")
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out")
    linears = {name for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    assert len(linears) == 14
    assert all(name.startswith("model.language_model.layers.") for name in linears)
    codes = {name: module for name, module in before.named_modules() if isinstance(module, Linear4bit)}
    for name in linears:
        assert torch.equal(model.get_submodule(name).weight, codes[f"{name}.base_layer"].weight)
    adapted = PeftModel.from_pretrained(model, tmp_path / "out" / "adapter")
    ours = {n: p for n, p in load_run(run, device="cpu").model.named_parameters() if ".lora_" in n}
    theirs = {n: p for n, p in adapted.named_parameters() if ".lora_" in n}
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name].to(ours[name].dtype)) for name in ours)


def test_adapter_export_is_a_run_again(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run.folder / "log.txt").write_text("secret")
    lines = exported(run, "adapter", tmp_path / "out")
    assert "its base is a folder of this machine" in lines[0]
    again = read_run(tmp_path / "out")
    assert again.finished
    assert "path" not in again.manifest.data
    assert not (tmp_path / "out" / "log.txt").exists()
    first, second = load_run(run, device="cpu"), load_run(again, device="cpu")
    asked = [{"role": "user", "content": [IMAGE, text("What color?")]}]
    picture = open_image(tmp_path / "pictures" / "1.png")
    answers = [Engine(x).answer_batch([(asked, [picture])], max_new_tokens=8) for x in (first, second)]  # type: ignore[list-item]
    assert answers[0] == answers[1]


def test_full_base_is_measured_and_gated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    monkeypatch.setattr(gates, "MOST_LOSS_ADDED", 100.0)
    lines = exported(run, "hf", tmp_path / "full", merge_base="full")
    assert any(line.startswith("held-out loss: run ") for line in lines)
    plain = load_file(tmp_path / "full" / "model.safetensors")
    loaded = load_run(run, device="cpu")
    layer = llava_of(loaded.model).model.language_model.layers[0].mlp.up_proj
    original = load_file(tmp_path / "language" / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    expected = merged_linear(layer, original).to(torch.bfloat16)
    assert torch.equal(plain["language_model.model.layers.0.mlp.up_proj.weight"], expected)
    monkeypatch.setattr(gates, "MOST_LOSS_ADDED", -100.0)
    with pytest.raises(ModelError, match="held-out loss above the run's"):
        exported(run, "hf", tmp_path / "refused", merge_base="full")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("damage", ["value", "missing", "extra", "swapped"])
def test_a_wrong_tensor_is_noticed(tmp_path: Path, damage: str) -> None:
    loaded = load_run(make_run(tmp_path), device="cpu")
    out = tmp_path / "out"
    out.mkdir()
    write_merged(loaded, out)
    assert gates.check_tensors(loaded, out).value <= 1
    stored = load_file(out / "model.safetensors")
    one, two = (f"language_model.model.layers.{i}.mlp.up_proj.weight" for i in (0, 1))
    if damage == "value":
        stored[one][3, 5] += 0.02
    elif damage == "missing":
        del stored[one]
    elif damage == "extra":
        stored["language_model.model.spare"] = torch.zeros(1)
    else:
        stored[one], stored[two] = stored[two].clone(), stored[one].clone()
    save_file(stored, out / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="export"):
        gates.check_tensors(loaded, out)


def test_a_requantised_merge_would_not_pass(tmp_path: Path) -> None:
    """The mistake the gate is for: merged weights in NF4 again are another model."""
    run = make_run(tmp_path)
    loaded = load_run(run, device="cpu")
    (tmp_path / "out").mkdir()
    write_merged(loaded, tmp_path / "out")
    probes = choose_probes(loaded)
    inputs = gates.consumer_inputs(tmp_path / "out", probes, loaded)
    from qllava.model.quantize import nf4_config

    again = LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "out", quantization_config=nf4_config(torch.float32), dtype=torch.float32
    )
    found = gates.consumer_logits(again, inputs, probes)
    expected = gates.run_logits(loaded, probes)
    with pytest.raises(ModelError, match="KL"):
        gates.divergence(found, expected).hold()


def test_export_without_data_compares_on_drawn_pictures(tmp_path: Path) -> None:
    run = make_run(tmp_path, data=False)
    assert choose_probes(load_run(run, device="cpu")).origin.startswith("drawn pictures")
    exported(run, "hf", tmp_path / "out")


def test_card_names_the_parts_and_the_proofs(tmp_path: Path) -> None:
    run = make_run(tmp_path, projector="linear")
    exported(run, "hf", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "merged into the dequantised NF4 base" in card
    assert "fp32 logits, relative" in card
    assert "vLLM knows no linear activation" in card


def test_nothing_is_written_over(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="holds something already; name a new folder"):
        exported(run, "hf", tmp_path / "out")
    with pytest.raises(UsageError, match="--merge-base full belongs to --to hf"):
        exported(run, "adapter", tmp_path / "other", merge_base="full")


def test_every_tensor_of_the_stock_model_is_named(tmp_path: Path) -> None:
    loaded = load_run(make_run(tmp_path), device="cpu")
    names = {name for name, _ in merged_tensors(loaded.model)}
    config = llava_of(loaded.model).config
    with torch.device("meta"):
        stock = LlavaForConditionalGeneration._from_config(config)
    assert names == set(stock.state_dict())
    with pytest.raises(ValueError, match="no tensor of a LLaVA model"):
        published_name("transformer.h.0")
