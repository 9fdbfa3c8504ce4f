"""A thin subclass of TRL's `SFTTrainer`: one row of data is one optimizer step of many packs.

What is ours: the loop over packs, the loss at supervised positions, two learning rates, and checkpoints that hold
projector + adapter + everything needed to go on. The rest (schedule, clipping, logging, callbacks, loggers) is stock.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import SequentialSampler
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from qllava.checkpoint.weights import llava_of, load_trained, save_trained
from qllava.data.collator import collate_step
from qllava.data.images import normalize
from qllava.errors import RunError
from qllava.files import atomic_directory, folder_hashes, write_json
from qllava.model.forward import loss_sum
from qllava.model.precision import autocast
from qllava.train.stages import freeze_all, trainable_groups, unfreeze

CHECKPOINTS = "checkpoints"
CHECKPOINT_MANIFEST = "checkpoint.json"
TRAINER_STATE = "trainer_state.json"


@dataclass(frozen=True)
class Normalization:
    """Per-channel mean and standard deviation of pixels in 0-1, from the image processor."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class StageTrainer(SFTTrainer):  # type: ignore[misc]
    """Trains one stage.

    Args:
        model: a frozen LLaVA model, wrapped by PEFT in stage 2.
        args: from `trainer_arguments`.
        train_dataset: from `data.steps.step_dataset`.
        tokenizer: handed on to TRL, which insists on one.
        normalization: of the pixels; done on the device.
        learning_rate, projector_learning_rate: of LoRA and of the projector.
        callbacks: stock callbacks.
    """

    def __init__(
        self,
        *,
        model: PeftModel | LlavaForConditionalGeneration,
        args: SFTConfig,
        train_dataset: Dataset,
        tokenizer: PreTrainedTokenizerFast,
        normalization: Normalization,
        learning_rate: float,
        projector_learning_rate: float,
        keep_checkpoints: int,
        callbacks: list[TrainerCallback],
    ) -> None:
        freeze_all(model)
        # Without an adapter Trainer refuses a quantised model, though only its fp32 projector learns. This flag says
        # "there is an adapter"; left on, the first save would look for it (transformers/integrations/peft.py).
        pretend = not isinstance(model, PeftModel) and getattr(model, "is_quantized", False)
        if pretend:
            model._hf_peft_config_loaded = True
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            data_collator=collate_step,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        if pretend:
            model._hf_peft_config_loaded = False
        # It prints every log line to stdout, which belongs to results.
        self.remove_callback(PrinterCallback)
        self.trainable_parameters = unfreeze(model)
        self.step_figures: dict[str, float] = {}
        self.rejected: dict[str, str] = {}
        self._normalization = normalization
        self._learning_rates = {"learning_rate": learning_rate, "projector_learning_rate": projector_learning_rate}
        self._keep_checkpoints = keep_checkpoints

    # One step

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward over all packs of the step.

        Returns: () the mean loss per supervised token of the global batch, detached.
        """
        del num_items_in_batch  # Trainer cannot count nested labels; the row brings its own normaliser.
        started = time.perf_counter()
        model.train()
        llava = llava_of(self.accelerator.unwrap_model(model))
        llava.model.vision_tower.eval()
        self.rejected.update(inputs["rejected"])
        supervised = max(1, inputs["supervised"])
        total = torch.zeros((), device=self.args.device)
        correct = torch.zeros((), device=self.args.device)
        for pack in self._prepare_inputs(inputs)["packs"]:
            if len(pack["target"]) == 0:
                continue
            with autocast(str(self.args.device)):
                loss, right = loss_sum(llava, self._with_normalized_pixels(pack))
            self.accelerator.backward(loss / supervised)
            total += loss.detach()
            correct += right
        self.step_figures = {
            "token_accuracy": float(correct) / supervised,
            "samples": inputs["samples"],
            "tokens": inputs["tokens"],
            "supervised_tokens": inputs["supervised"],
            "tokens_alone": inputs["tokens_alone"],
            "token_budget": inputs["token_budget"],
            "packs": len(inputs["packs"]),
            "seconds": time.perf_counter() - started,
        }
        mean: torch.Tensor = total / supervised
        return mean

    def _with_normalized_pixels(self, pack: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if "pixel_values" not in pack:
            return pack
        pixels = normalize(pack["pixel_values"], self._normalization.mean, self._normalization.std)
        return {**pack, "pixel_values": pixels}

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with one group for LoRA and one for the projector."""
        del model
        if getattr(self, "optimizer", None) is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = trainable_groups(self.model, **self._learning_rates)
            self.optimizer: torch.optim.Optimizer = kind(groups, **{**settings, "weight_decay": self.args.weight_decay})
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The step's own figures join loss, learning rate and gradient norm."""
        super().log({**logs, **self.step_figures}, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not estimated here: the stock estimate looks for `input_ids` in the batch; the planner does better."""
        del inputs
        return 0

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> SequentialSampler:
        # The step plan has shuffled already; its order is what a resumed run continues.
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    # Checkpoints

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        del model, trial
        folder = Path(self.args.output_dir) / CHECKPOINTS
        with atomic_directory(folder / f"step-{self.state.global_step:06d}") as aside:
            save_trained(self.model, aside)
            self._save_optimizer_and_scheduler(str(aside))
            self._save_rng_state(str(aside))
            self.state.save_to_json(str(aside / TRAINER_STATE))
            write_json(aside / CHECKPOINT_MANIFEST, {"step": self.state.global_step, "files": folder_hashes(aside)})
        for old in checkpoint_folders(Path(self.args.output_dir))[: -self._keep_checkpoints]:
            shutil.rmtree(old)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        del model
        load_trained(self.model, Path(resume_from_checkpoint))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        raise RunError("StageTrainer saves through checkpoints; use checkpoint.weights.save_trained")


def checkpoint_folders(run_folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((run_folder / CHECKPOINTS).glob("step-*"))


def trainer_arguments(
    run_folder: Path,
    *,
    steps: int,
    learning_rate: float,
    scheduler: str,
    warmup_ratio: float,
    weight_decay: float,
    max_grad_norm: float,
    save_steps: int,
    checkpoint_every: int | None,
    seed: int,
    device: str,
    workers: int,
    report_to: list[str],
) -> SFTConfig:
    """The stock configuration of a stage.

    Args:
        run_folder: the run.
        steps: optimizer steps in all.
        checkpoint_every: gradient checkpointing of every n-th layer, or None for off.
        device: `cpu` or `cuda`.
        report_to: names of stock loggers, e.g. `["wandb"]`.
    """
    checkpointing: dict[str, Any] = {"use_reentrant": False}
    if checkpoint_every is not None and checkpoint_every > 1:
        checkpointing["every_n_layers"] = checkpoint_every
    return SFTConfig(
        output_dir=str(run_folder),
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        learning_rate=learning_rate,
        lr_scheduler_type=scheduler,
        warmup_steps=round(warmup_ratio * steps),
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        optim="adamw_torch_fused",
        # Ours: autocast in `training_step` over fp32 masters.
        bf16=False,
        fp16=False,
        use_cpu=device == "cpu",
        activation_checkpointing=checkpoint_every is not None,
        activation_checkpointing_kwargs=checkpointing if checkpoint_every is not None else None,
        logging_strategy="steps",
        logging_steps=1,
        # On, it replaces a NaN loss by the average of earlier ones.
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=save_steps,
        report_to=report_to,
        disable_tqdm=True,
        seed=seed,
        max_length=None,
        packing=False,
        padding_free=False,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        dataloader_prefetch_factor=2 if workers > 0 else None,
        dataloader_pin_memory=device == "cuda",
    )
