"""The other contender: stock `trl.SFTTrainer` with its own vision collator and data format, on the same model."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from datasets import Dataset, Image
from datasets import List as Sequence
from peft import PeftModel
from trl import SFTConfig, SFTTrainer

from qllava.bench.clock import StepClock
from qllava.bench.ours import step_plan
from qllava.bench.spec import BenchSpec, Measured
from qllava.checkpoint.weights import llava_of
from qllava.data.formats import load_conversations
from qllava.model.build import projector_parameters, vision_config
from qllava.model.processor import build_processor
from qllava.train.parts import Parts
from qllava.train.stages import freeze_all, lora_parameters
from qllava.types import STAGE_FILES


def measure_trl(spec: BenchSpec, parts: Parts, scratch: Path) -> Measured:
    """One warm-up step and `spec.steps` counted ones over the same samples as ours, step by step.

    At its defaults but for what the comparison needs: the batch of a step, the recipe's `max_length` and learning
    rate, no saving, and the order of the samples. Its trainables are the same; TRL itself turns them into bf16.
    """
    recipe, setting = spec.parsed_recipe(), spec.setting
    stage = recipe.stage(spec.stage)
    llava, model = llava_of(parts.model), parts.model
    freeze_all(model)
    for parameter in [*(p for _, p in projector_parameters(llava)), *lora_parameters(model)]:
        parameter.requires_grad_(True)
    tower = vision_config(llava)
    processor = build_processor(
        image_processor=parts.image_processor,
        tokenizer=parts.encoder.tokenizer,
        chat_template=parts.encoder.template.source,
        patch_size=tower.patch_size,
        patches=recipe.model.patches,
        has_cls=tower.model_type == "clip_vision_model",
    )
    # On by TRL's own default; said under its new name, since the old one warns.
    arguments: dict[str, Any] = {"activation_checkpointing": setting.checkpointing}
    if not setting.autocast:
        arguments["bf16"] = False
    if setting.workers:
        arguments |= {"dataloader_num_workers": setting.workers, "dataloader_persistent_workers": True}
    clock, rows = StepClock(), _dataset(spec)
    # Without an adapter Trainer refuses a quantised model; see `qllava.train.trainer`.
    pretend = not isinstance(model, PeftModel) and bool(getattr(model, "is_quantized", False))
    if pretend:
        model._hf_peft_config_loaded = True
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(scratch),
            max_steps=spec.steps + 1,
            per_device_train_batch_size=setting.micro_batch,
            gradient_accumulation_steps=max(1, spec.batch_size // setting.micro_batch),
            learning_rate=stage.learning_rate,
            max_length=recipe.data.max_length,
            assistant_only_loss=True,
            train_sampling_strategy="sequential",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            report_to=[],
            use_cpu=spec.device == "cpu",
            **arguments,
        ),
        train_dataset=rows,
        processing_class=processor,
        callbacks=[clock],
    )
    if not setting.autocast:
        # A help that stock TRL does not give itself: it makes trainables bf16, which only autocast can mix with fp32.
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.data = parameter.data.float()
    trainer.train()
    tokens, supervised = _count(trainer, rows, setting.micro_batch, first=spec.batch_size)
    return Measured(
        seconds=clock.ends[spec.steps] - clock.ends[0],
        cpu_seconds=clock.cpu_ends[spec.steps] - clock.cpu_ends[0],
        samples=spec.steps * spec.batch_size,
        pictures=spec.steps * spec.batch_size,
        tokens=tokens,
        supervised_tokens=supervised,
        peak_bytes=clock.peaks[spec.steps],
        loss=clock.logs[spec.steps]["loss"],
    )


def _count(trainer: SFTTrainer, rows: Dataset, micro_batch: int, *, first: int) -> tuple[int, int]:
    """Tokens (padding included) and supervised tokens of the counted steps, from the collator once more."""
    tokens = supervised = 0
    for start in range(first, len(rows), micro_batch):
        batch = trainer.data_collator([rows[i] for i in range(start, min(start + micro_batch, len(rows)))])
        tokens += batch["input_ids"].numel()
        # A label is predicted by the token before it, so the first one never counts.
        supervised += int((batch["labels"][:, 1:] != -100).sum())
    return tokens, supervised


def _dataset(spec: BenchSpec) -> Dataset:
    """TRL's format: `images` and `messages`, in the order of our steps, shuffled inside each."""
    conversations = load_conversations(Path(spec.data) / STAGE_FILES[spec.stage])
    plan = step_plan(spec)
    order: list[int] = []
    for step in range(spec.steps + 1):
        members = plan.members(step)
        random.Random(step).shuffle(members)  # noqa: S311 - an order, not a secret
        order += members
    rows: dict[str, list[Any]] = {"images": [], "messages": []}
    for index in order:
        conversation = conversations[index]
        rows["images"].append([str(Path(spec.data) / "pictures" / name) for name in conversation.images])
        rows["messages"].append(
            [
                {
                    "role": message["role"],
                    "content": "\n".join(part["text"] for part in message["content"] if part["type"] == "text"),
                }
                for message in conversation.messages
            ]
        )
    return Dataset.from_dict(rows).cast_column("images", Sequence(Image()))
