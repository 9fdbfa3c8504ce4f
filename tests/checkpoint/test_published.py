"""Published LLaVA models: an export answers as its run, a stranger is asked through its own template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor

from qllava.checkpoint.published import check_published, load_published
from qllava.data.encode import ChatEncoder
from qllava.data.foreign_template import ForeignEncoder
from qllava.errors import ModelError, QllavaError, UsageError
from qllava.infer.engine import Engine, Prompt
from qllava.types import IMAGE, Conversation, text
from tests.evaluate.published_model import FOREIGN, publish
from tests.infer.tiny_run import Answering, picture

PROMPTS: list[Prompt] = [
    ([{"role": "user", "content": [IMAGE, text(question)]}], [picture(red)])
    for question in ("How many?", "What color is the circle?")
    for red in (20, 200)
]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder, and what the merged model in memory answers."""
    out, loaded, merged = publish(tmp_path_factory.mktemp("export"))
    parts: Any = Answering(merged, loaded.encoder, loaded.image_processor)
    return out, Engine(parts).answer_batch(PROMPTS, max_new_tokens=10)


@pytest.fixture
def copy(export: tuple[Path, list[str]], tmp_path: Path) -> Path:
    return Path(shutil.copytree(export[0], tmp_path / "copy"))


def test_an_export_of_ours_answers_as_its_run(export: tuple[Path, list[str]]) -> None:
    loaded = load_published(str(export[0]), device="cpu")
    assert type(loaded.encoder) is ChatEncoder
    assert loaded.encoder.template.name == "chatml"
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert Engine(loaded).answer_batch(PROMPTS, max_new_tokens=10) == export[1]
    assert len(set(export[1])) > 1


def test_a_stranger_is_asked_as_transformers_would(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text(FOREIGN)
    encoder = load_published(str(copy), device="cpu").encoder
    assert isinstance(encoder, ForeignEncoder)
    assert encoder.template.stop == ()
    processor = AutoProcessor.from_pretrained(copy)
    for messages, images in PROMPTS:
        asked = processor.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
        stock = processor(images=list(images), text=asked, return_tensors="pt")["input_ids"][0].tolist()
        assert encoder.encode_prompt(messages) == stock


def test_of_a_strangers_conversation_the_answers_words_are_scored(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text(FOREIGN)
    encoder = load_published(str(copy), device="cpu").encoder
    turns = [("A: how many?", "A"), ("Is it two?", "two A")]
    messages = [
        message
        for index, (question, answer) in enumerate(turns)
        for message in (
            {"role": "user", "content": [*([IMAGE] if not index else []), text(question)]},
            {"role": "assistant", "content": [text(answer)]},
        )
    ]
    encoded = encoder.encode(Conversation("1", ("a",), tuple(messages)))  # type: ignore[arg-type]
    pieces = encoder.decode_pieces(encoded.input_ids)
    assert "".join(p for p, m in zip(pieces, encoded.assistant_mask, strict=True) if m) == " A two A"
    prompt = encoder.encode_prompt(messages[:1])  # type: ignore[arg-type]
    assert encoded.input_ids[: len(prompt)] == prompt
    assert encoded.assistant_mask.index(1) == len(prompt)


def test_image_text_in_a_question_is_text(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text(FOREIGN)
    encoder = load_published(str(copy), device="cpu").encoder
    ids = encoder.encode_prompt([{"role": "user", "content": [IMAGE, text("what is <image>?")]}])
    assert ids.count(encoder.image_token_id) == encoder.tokens_per_image == 16


def change_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def drop_config_key(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["text_config"]
    path.write_text(json.dumps(config))


def make_run(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "manifest.json").write_text("{}")


def make_adapter(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (change_config(model_type="llava_next"), ModelError, "is a llava_next model, not LLaVA (model_type llava)"),
        (drop_config_key, ModelError, "is in LLaVA's original format, which transformers does not read; use one in"),
        (
            change_config(vision_config={"model_type": "pixtral"}),
            ModelError,
            "has a pixtral vision tower; qllava answers with CLIP and SigLIP towers",
        ),
        (change_config(vision_feature_layer=[-2, -1]), ModelError, "reads several tower layers at once"),
        (make_run, UsageError, "is a run of qllava; give it with --run"),
        (make_adapter, ModelError, "holds a LoRA adapter and no model"),
        (lambda folder: (folder / "config.json").unlink(), ModelError, "cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text("[]"), ModelError, "is no model config"),
    ],
)
def test_what_is_no_llava_is_refused_before_its_weights_are_read(
    copy: Path, change: Callable[[Path], Any], error: type[QllavaError], message: str
) -> None:
    change(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(error) as caught:
        check_published(str(copy))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_weights_are_not_made_up(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    lost = next(name for name in sorted(tensors) if "linear_1.weight" in name)
    save_file({k: v for k, v in tensors.items() if k != lost}, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 weights \(first: .*linear_1.weight\); download or export it again"):
        load_published(str(copy), device="cpu")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0]['content'] }}", "it must hold <image> and the question once each"),
        ("{% for m in messages %}{{ m.content[1].text }}{% endfor %}", "it must hold <image> and the question once"),
        ("{{ raise_exception('no') }}", "give the model a chat template that takes a list of image and text"),
    ],
)
def test_a_template_that_loses_picture_or_question_is_refused(copy: Path, template: str, message: str) -> None:
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelError, match=message):
        load_published(str(copy), device="cpu")


def test_the_digest_follows_the_files(copy: Path) -> None:
    before = check_published(str(copy))
    assert check_published(str(copy)) == before
    (copy / "chat_template.jinja").write_text(FOREIGN)
    assert check_published(str(copy)) != before


def test_pixels_of_another_size_are_refused(copy: Path) -> None:
    path = copy / "processor_config.json"
    config = json.loads(path.read_text())
    config["image_processor"]["size"] = {"height": 16, "width": 16}
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"makes pictures of 16 x 16 pixels, its tower takes 32 x 32"):
        load_published(str(copy), device="cpu")
