"""The closed-form start of a projector: words of a picture found in the patches that tell them."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from qllava.model.build import fresh_projector
from qllava.model.warm_start import LENGTH, NEUTRAL, _set_linear, fit_to_words

WIDTH = 12
WORDS = {10: 0, 11: 1, 12: 2}  # token id -> the feature that tells it
STYLE = (20, 21)  # openings that no picture tells
ALWAYS = 30


def projector(*, kind: str, wide: int) -> LlavaMultiModalProjector:
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2),
        text_config=LlamaConfig(hidden_size=wide, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8),
        projector_hidden_act="linear" if kind == "linear" else "gelu",
        vision_feature_layer=-1,
    )
    made = fresh_projector(config, kind=kind, seed=0)
    assert isinstance(made, LlavaMultiModalProjector)
    return made


@pytest.mark.parametrize(("kind", "wide"), [("linear", 16), ("mlp2x_gelu", 40)])
def test_a_projector_can_start_as_any_affine_map(kind: str, wide: int):
    generator = torch.Generator().manual_seed(1)
    matrix, mean, offset = (torch.randn(*s, generator=generator).double() for s in ((WIDTH, wide), (WIDTH,), (wide,)))
    deviation = torch.rand(WIDTH, generator=generator).double() + 0.5
    features = torch.randn(5, 7, WIDTH, generator=generator) * 3
    made = projector(kind=kind, wide=wide)
    _set_linear(made, matrix, mean, deviation, offset)
    expected = ((features.double() - mean) / deviation) @ matrix + offset
    torch.testing.assert_close(made(features).double(), expected, rtol=1e-4, atol=1e-4)


def test_too_few_rows_leave_out_the_weakest_directions():
    generator = torch.Generator().manual_seed(1)
    strong, weak = torch.linalg.qr(torch.randn(WIDTH, 5, generator=generator).double())[0].split([4, 1], dim=1)
    outward = torch.linalg.qr(torch.randn(8, 5, generator=generator).double())[0].T
    matrix = strong @ outward[:4] + 1e-3 * weak @ outward[4:]
    features = torch.randn(6, WIDTH, generator=generator)
    made = projector(kind="mlp2x_gelu", wide=8)
    _set_linear(made, matrix, *(torch.full((n,), v).double() for n, v in ((WIDTH, 0), (WIDTH, 1), (8, 0))))
    torch.testing.assert_close(made(features).double(), features.double() @ strong @ outward[:4], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["linear", "mlp2x_gelu"])
def test_every_patch_starts_as_the_word_it_tells(kind: str):
    generator = torch.Generator().manual_seed(2)
    embedding = torch.randn(40, 32, generator=generator)
    pictures, patches = 400, 4
    noise = 0.02 * torch.randn(pictures, patches, WIDTH, generator=generator)
    told = torch.randint(-1, 3, (pictures, patches), generator=generator)  # feature 0, 1, 2 or nothing in each patch
    features = noise + 5.0
    captions = []
    for picture in range(pictures):
        words = []
        for patch in range(patches):
            if told[picture, patch] >= 0:
                features[picture, patch, told[picture, patch]] += 2.0
                words.append(10 + int(told[picture, patch]))
        captions.append([STYLE[picture * 7 % 3 % 2], ALWAYS, *words])
    made = projector(kind=kind, wide=32)
    explained = fit_to_words(made, features.sum(1), captions, embedding, features=features[:64])
    assert set(explained) == {*WORDS, *STYLE}
    assert min(explained[word] for word in WORDS) > 0.95
    assert max(explained[style] for style in STYLE) < 0.05
    tokens = made(features).detach()
    neutral = tokens[told < 0].mean(0)
    for word, feature in WORDS.items():
        found = tokens[told == feature].mean(0) - neutral
        others = torch.cosine_similarity(found, embedding[[*WORDS, *STYLE, ALWAYS]], dim=-1)
        assert [*WORDS, *STYLE, ALWAYS][int(others.argmax())] == word
        assert others.max() > 0.95
    word_length = embedding.norm(dim=-1).mean()
    common = made(features[:64].flatten(0, 1).mean(0)).detach()
    torch.testing.assert_close(common.norm(), NEUTRAL * word_length, rtol=1e-3, atol=1e-3)
    longest = (tokens[:64] - common).norm(dim=-1).amax(-1).mean()
    torch.testing.assert_close(longest, LENGTH * word_length, rtol=1e-3, atol=1e-3)


def test_too_few_captions_leave_the_projector_as_it_was():
    made = projector(kind="mlp2x_gelu", wide=16)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    features = torch.randn(6, 3, WIDTH)
    assert fit_to_words(made, features.sum(1), [[1, 2]] * 6, torch.randn(9, 16), features=features) == {}
    for name, value in made.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_pictures_that_tell_nothing_leave_the_projector_as_it_was():
    made = projector(kind="mlp2x_gelu", wide=16)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    features = torch.zeros(100, 3, WIDTH)
    captions = [[1 + n % 2] for n in range(100)]
    assert fit_to_words(made, features.sum(1), captions, torch.randn(9, 16), features=features) == {1: 0.0, 2: 0.0}
    for name, value in made.state_dict().items():
        assert torch.equal(value, before[name]), name
