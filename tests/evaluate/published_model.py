"""A LLaVA checkpoint as others publish it: stock folder, processor files, a chat template."""

from __future__ import annotations

from pathlib import Path

from transformers import LlavaForConditionalGeneration

from qllava.checkpoint.load import LoadedRun
from qllava.model.processor import build_processor
from tests.infer.tiny_run import load_tiny

# In the manner of llava-hf's: a generation mark that ends with a space, no system text, no end of turn.
FOREIGN = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ part['text'] + ' ' }}{% endgeneration %}"
    "{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def publish(folder: Path, *, template: str | None = None) -> tuple[Path, LoadedRun, LlavaForConditionalGeneration]:
    """Merge a tiny run into a stock folder under `folder`; its own template unless given."""
    loaded = load_tiny(folder)
    merged: LlavaForConditionalGeneration = loaded.model.merge_and_unload()  # type: ignore[union-attr]
    merged.float()
    out = folder / "published"
    merged.save_pretrained(out)
    build_processor(
        image_processor=loaded.image_processor,
        tokenizer=loaded.encoder.tokenizer,
        chat_template=template or loaded.encoder.template.source,
        patch_size=8,
        patches="default",
        has_cls=True,
    ).save_pretrained(out)
    return out, loaded, merged
