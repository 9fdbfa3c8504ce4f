"""GGUF files by other readers than wrote them: names, shapes, metadata, tokens and logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from jinja2 import Environment
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from qllava.checkpoint.load import load_run
from qllava.checkpoint.weights import llava_of
from qllava.data.chat_template import load_chat_template, template_names
from qllava.errors import ModelError, UsageError
from qllava.export.gguf_text import interleaved, plain_template, rope_factors
from qllava.export.gguf_tokenizer import read_vocabulary, splitting_rules
from qllava.export.gguf_vision import needed_layers, projector_tensors
from qllava.export.run import export
from qllava.types import IMAGE, Message, text
from tests.export.runs import make_run


def fields(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    run = make_run(folder, aspect="pad", splits="gpt-2")
    done = export(run, "gguf", folder / "out", device="cpu", note=lambda _: None)
    assert [str(gate).split(",")[0] for gate in done.gates] == [
        "mmproj tensors read back",
        "text logits in fp16 weights",
    ]
    assert done.lines[0] == "tokenizer read back: the same tokens for 11 texts"
    return folder


def test_text_model_says_what_it_is(pair: Path) -> None:
    said = fields(pair / "out" / "model.gguf")
    assert said["general.architecture"] == "llama"
    assert said["llama.attention.head_count"] == 4
    assert said["llama.attention.head_count_kv"] == 2
    assert said["llama.embedding_length"] == 64
    assert said["llama.rope.dimension_count"] == 16
    assert said["tokenizer.ggml.model"] == "gpt2"
    tokens = said["tokenizer.ggml.tokens"]
    assert tokens[said["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"
    assert len(tokens) == said["llama.vocab_size"]
    assert tokens[-1].startswith("[PAD")
    assert "generation" not in said["tokenizer.chat_template"].replace("add_generation_prompt", "")
    assert said["tokenizer.ggml.add_bos_token"] is False
    assert {t.name for t in GGUFReader(pair / "out" / "model.gguf").tensors} >= {
        "token_embd.weight",
        "output.weight",
        "output_norm.weight",
        "blk.1.attn_q.weight",
        "blk.0.ffn_gate.weight",
    }


def test_vision_file_says_what_it_is(pair: Path) -> None:
    said = fields(pair / "out" / "mmproj.gguf")
    assert said["clip.projector_type"] == "mlp"
    assert said["clip.has_vision_encoder"] is True
    # Layer -2 of three: two are run, and the third is there for readers that run all but the last.
    assert said["clip.vision.feature_layer"] == [2]
    assert said["clip.vision.block_count"] == 3
    assert said["clip.vision.image_size"] == 32
    assert "clip.use_gelu" not in said  # quick_gelu
    tensors = {t.name: tuple(int(n) for n in t.shape) for t in GGUFReader(pair / "out" / "mmproj.gguf").tensors}
    assert tensors["mm.0.weight"] == (32, 64)
    assert tensors["mm.2.weight"] == (64, 64)
    assert tensors["v.position_embd.weight"] == (32, 17)
    assert tensors["v.patch_embd.weight"] == (8, 8, 3, 32)


@pytest.mark.parametrize(("family", "tower"), [("qwen2", "siglip"), ("mistral", "clip")])
def test_other_families(tmp_path: Path, family: str, tower: str) -> None:
    run = make_run(tmp_path, family=family, tower=tower, splits="qwen2" if family == "qwen2" else "gpt-2")
    done = export(run, "gguf", tmp_path / "out", device="cpu", note=lambda _: None)
    assert fields(tmp_path / "out" / "model.gguf")["general.architecture"] == (
        "qwen2" if family == "qwen2" else "llama"
    )
    assert any("this run saw them squeezed into a square" in line for line in done.lines)


@pytest.mark.parametrize("gelu", ["none", "tanh"])
def test_linear_projector_passes_the_gelu_between(tmp_path: Path, gelu: Any) -> None:
    loaded = load_run(make_run(tmp_path, projector="linear"), device="cpu")
    tensors = {name: torch.from_numpy(np.asarray(a)).float() for name, a in projector_tensors(loaded)}
    features = torch.randn(7, 32, generator=torch.Generator().manual_seed(0))
    hidden = torch.nn.functional.gelu(features @ tensors["mm.0.weight"].T + tensors["mm.0.bias"], approximate=gelu)
    found = hidden @ tensors["mm.2.weight"].T + tensors["mm.2.bias"]
    expected = llava_of(loaded.model).model.multi_modal_projector(features)
    assert torch.allclose(found, expected, atol=5e-3)  # fp16 weights
    assert float(expected.abs().max()) > 0.1


def test_interleaving_keeps_attention(tmp_path: Path) -> None:
    """llama.cpp rotates neighbours (0, 1), transformers halves (0, n/2): the same pairs after the permutation."""
    heads, width, columns = 2, 8, 5
    weight = torch.randn(heads * width, columns, generator=torch.Generator().manual_seed(1))
    moved = interleaved(weight, heads).view(heads, width, columns)
    plain = weight.view(heads, width, columns)
    for pair_index in range(width // 2):
        assert torch.equal(moved[:, 2 * pair_index], plain[:, pair_index])
        assert torch.equal(moved[:, 2 * pair_index + 1], plain[:, pair_index + width // 2])


def test_rope_factors_of_llama3() -> None:
    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=2,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    factors = rope_factors(config)
    assert factors.shape == (64,)
    # Short waves are left alone, the longest are divided by the whole factor.
    assert factors[0] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(8.0)
    assert (np.diff(factors) >= -1e-6).all()


@pytest.mark.parametrize("name", [n for n in template_names() if n != "plain"])
def test_templates_render_alike_without_their_marks(name: str) -> None:
    source = load_chat_template(name).source
    messages: list[Message] = [
        {"role": "user", "content": [IMAGE, text("What is it?")]},
        {"role": "assistant", "content": [text("A dog.")]},
        {"role": "user", "content": [text("Where?")]},
    ]
    plain = plain_template(source)
    # Any Jinja can read it; transformers' own tag is gone.
    environment = Environment(trim_blocks=True, lstrip_blocks=True)  # noqa: S701 - text, no page
    found = environment.from_string(plain).render(messages=messages, bos_token="<s>")  # noqa: S106
    assert found == load_chat_template(name).render(messages, {"bos_token": "<s>"})[0]


def byte_level(steps: Any) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    backend.pre_tokenizer = steps
    return PreTrainedTokenizerFast(tokenizer_object=backend)


LLAMA3 = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"
QWEN2 = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"


@pytest.mark.parametrize(
    ("steps", "rules"),
    [
        ([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(use_regex=False)], "llama-bpe"),
        ([pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(use_regex=False)], "qwen2"),
        ([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel()], "smollm"),
        ([pre_tokenizers.ByteLevel()], "gpt-2"),
    ],
)
def test_splitting_rules_by_name(steps: list[Any], rules: str) -> None:
    tokenizer = byte_level(pre_tokenizers.Sequence(steps))
    assert splitting_rules(json.loads(tokenizer.backend_tokenizer.to_str())) == rules


def test_unknown_splitting_is_refused() -> None:
    tokenizer = byte_level(pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\d"), "isolated")]))
    with pytest.raises(ModelError, match="no known name for how this tokenizer splits text"):
        read_vocabulary(tokenizer, 4)


def test_sentencepiece_scores_follow_the_merges() -> None:
    vocabulary = {"<unk>": 0, "<0x41>": 1, "a": 2, "b": 3, "c": 4, "ab": 5, "abc": 6}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b"), ("ab", "c")], byte_fallback=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")  # noqa: S106
    found = read_vocabulary(tokenizer, 8)
    assert (found.kind, found.rules) == ("llama", "default")
    assert found.scores[5] > found.scores[6]
    assert found.types[:3] == [3, 6, 1]  # control (an added token), byte, normal
    assert found.tokens[7] == "[PAD7]"
    swapped = {**vocabulary, "ab": 6, "abc": 5}
    backend = Tokenizer(models.BPE(vocab=swapped, merges=[("a", "b"), ("ab", "c")], byte_fallback=True))
    with pytest.raises(ModelError, match="not in the order of its merges"):
        read_vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend), 8)


def test_what_llama_cpp_runs_otherwise_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(UsageError, match="holds no convert_hf_to_gguf"):
        export(run, "gguf", tmp_path / "out", device="cpu", note=lambda _: None, llama_cpp=tmp_path)
    config = llava_of(load_run(run, device="cpu").model).config
    assert needed_layers(config) == 2
    config.vision_feature_layer = -1
    assert needed_layers(config) == 3
