import json
from pathlib import Path

import pytest

from qllava.plan.sizes import (
    LANGUAGE,
    TOWERS,
    cached_folder,
    hub_cache,
    model_sizes,
    recipe_download_gb,
)
from qllava.recipe import ModelSettings, load_recipe, recipe_names


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


# Counts from the models' own cards and papers.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("lmsys/vicuna-7b-v1.5", 6_738_149_376),
        ("lmsys/vicuna-13b-v1.5", 13_015_449_600),
        ("embedded:smollm2-135m", 134_479_872),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_283_200),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_298_048),
        ("NousResearch/Meta-Llama-3.1-8B-Instruct", 8_030_000_000),
        ("mistralai/Mistral-7B-Instruct-v0.3", 7_248_000_000),
    ],
)
def test_parameter_counts_are_those_of_the_models(name: str, parameters: int) -> None:
    sizes = LANGUAGE[name]
    assert sizes.block_parameters + sizes.embedding_parameters == pytest.approx(parameters, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "parameters", "patches"),
    [
        ("openai/clip-vit-large-patch14", 303_179_776, 256),
        ("openai/clip-vit-large-patch14-336", 303_507_456, 576),
        ("google/siglip-so400m-patch14-384", 428_225_600, 729),
    ],
)
def test_towers(name: str, parameters: int, patches: int) -> None:
    assert TOWERS[name].parameters == pytest.approx(parameters, rel=1e-3)
    assert TOWERS[name].patches == patches


def test_lora_on_all_linears_of_a_7b() -> None:
    assert LANGUAGE["lmsys/vicuna-7b-v1.5"].lora_parameters(64) == 159_907_840


def test_image_tokens_count_the_class_token_only_for_clip_in_full() -> None:
    clip, siglip = TOWERS["openai/clip-vit-large-patch14"], TOWERS["google/siglip-so400m-patch14-384"]
    assert (clip.image_tokens("default"), clip.image_tokens("full")) == (256, 257)
    assert siglip.image_tokens("full") == 729


def test_projectors() -> None:
    v1, v15 = model_sizes(load_recipe("llava-v1-7b").model), model_sizes(load_recipe("llava-1.5-7b").model)
    assert v1 is not None
    assert v15 is not None
    assert v1.projector == 1024 * 4096 + 4096
    assert v15.projector == 1024 * 4096 + 4096 + 4096 * 4096 + 4096


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_known_without_a_download(name: str) -> None:
    model = load_recipe(name).model
    assert model_sizes(model) is not None
    assert recipe_download_gb(model) is not None


def test_downloads() -> None:
    assert recipe_download_gb(load_recipe("llava-1.5-7b").model) == pytest.approx(15.2)
    assert recipe_download_gb(load_recipe("smol").model) == 0


def settings(language: str, tower: str = "openai/clip-vit-large-patch14") -> ModelSettings:
    return ModelSettings(language_model=language, vision_tower=tower)


def test_an_unknown_hub_id_is_unknown() -> None:
    assert model_sizes(settings("someone/model")) is None
    assert recipe_download_gb(settings("someone/model")) is None


def test_a_local_folder_is_read(tmp_path: Path) -> None:
    values = {
        "model_type": "qwen2",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 1000,
        "tie_word_embeddings": True,
        "head_dim": 32,
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    sizes = model_sizes(settings(str(tmp_path)))
    assert sizes is not None
    language = sizes.language
    assert language.block_parameters == 2 * (64 * 128 * 2 + 64 * 64 * 2 + 64 * 128 * 3)
    assert language.embedding_parameters == 64_000
    assert recipe_download_gb(settings(str(tmp_path))) == 1.7


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"num_hidden_layers": "many"}'])
def test_an_unreadable_local_config_is_unknown(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert model_sizes(settings(str(tmp_path))) is None


def test_a_local_tower_inherits_its_classes_defaults(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip", "vision_config": {"hidden_size": 1152}}))
    sizes = model_sizes(settings("lmsys/vicuna-7b-v1.5", str(tmp_path)))
    assert sizes is not None
    assert (sizes.tower.width, sizes.tower.layers, sizes.tower.patch_size, sizes.tower.class_token) == (
        1152,
        12,
        16,
        False,
    )


def test_what_is_cached_is_not_downloaded_again(empty_hub_cache: Path) -> None:
    name = "lmsys/vicuna-7b-v1.5"
    assert cached_folder(name) is None
    snapshot = empty_hub_cache / "models--lmsys--vicuna-7b-v1.5" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert recipe_download_gb(load_recipe("llava-1.5-7b").model) == pytest.approx(15.2)
    (snapshot / "pytorch_model-00001-of-00002.bin").touch()
    assert cached_folder(name) == snapshot
    assert recipe_download_gb(load_recipe("llava-1.5-7b").model) == pytest.approx(1.7)


def test_where_the_hub_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", "/models")
    assert hub_cache() == Path("/models/hub")
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert hub_cache() == Path("/cache/huggingface/hub")
