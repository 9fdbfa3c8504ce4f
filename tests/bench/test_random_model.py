"""A model of random weights is the one `assemble` builds, but for the numbers in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit

from qllava.bench.random_model import random_model, word_tokenizer
from qllava.data.chat_template import load_chat_template, template_names
from qllava.data.encode import ChatEncoder
from qllava.errors import ModelError
from qllava.model.build import assemble
from qllava.model.lora import add_lora
from qllava.recipe import ModelSettings
from qllava.types import IMAGE, Conversation, text
from tests.tiny import save_language_model, save_tower


@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_has_the_shape_and_type_of_the_real_one(tmp_path: Path, quantization: str, tied: bool) -> None:
    model = ModelSettings.model_validate(
        {
            "language_model": str(save_language_model(tmp_path / "lm", tied=tied)),
            "vision_tower": str(save_tower(tmp_path / "tower")),
            "quantization": quantization,
        }
    )
    # An id that the vocabulary has already: the real one then keeps its size.
    real = assemble(**model.model_dump(), image_token_id=5, device="cpu", seed=1)
    random = random_model(model, image_token_id=5, device="cpu", seed=1)

    def shapes(found: torch.nn.Module) -> dict[str, tuple[object, ...]]:
        return {n: (tuple(p.shape), p.dtype, type(p).__name__) for n, p in found.named_parameters()}

    assert shapes(random) == shapes(real)
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in random.parameters())
    assert getattr(random, "is_quantized", False) == getattr(real, "is_quantized", False)
    assert random.config.text_config.num_hidden_layers == len(random.model.language_model.layers) == 2
    assert [layer.self_attn.layer_idx for layer in random.model.language_model.layers] == [0, 1]
    if quantization == "nf4":
        packed = [m for m in random.modules() if isinstance(m, Linear4bit)]
        assert len(packed) == 14
        assert all(m.weight.quant_state.nested for m in packed)
        assert len({float(m.weight.quant_state.absmax.float().mean()) for m in packed}) > 1
    assert add_lora(random, rank=2, alpha=4, dropout=0.0, seed=1)
    ids = torch.arange(6)[None]
    assert torch.isfinite(random.eval()(input_ids=ids[:, :5], use_cache=False).logits).all()


def test_unknown_dimensions_are_one_line() -> None:
    model = ModelSettings(language_model="someone/model", vision_tower="openai/clip-vit-large-patch14")
    with pytest.raises(ModelError, match="the dimensions of someone/model or openai/clip-vit-large-patch14 are not"):
        random_model(model, image_token_id=1, device="cpu", seed=0)


@pytest.mark.parametrize("template", template_names())
def test_the_word_tokenizer_speaks_every_shipped_template(template: str) -> None:
    tokenizer, image_token_id = word_tokenizer()
    encoder = ChatEncoder(tokenizer, load_chat_template(template), image_token_id, 16)
    messages = (
        {"role": "user", "content": [IMAGE, text("the man and the dog")]},
        {"role": "assistant", "content": [text("two people standing near water")]},
    )
    encoded = encoder.encode(Conversation("a", ("a.jpg",), messages))  # type: ignore[arg-type]
    assert encoded.input_ids.count(image_token_id) == 16
    # A token a word, and one or two to end the answer.
    assert 5 <= sum(encoded.assistant_mask) <= 8
    assert max(encoded.input_ids) < 32000
