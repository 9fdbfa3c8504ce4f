"""A thin subclass of TRL's `SFTTrainer`: one row of data is one optimizer step of many packs.

What is ours: the loop over packs, the loss at supervised positions, two learning rates, and checkpoints that hold
projector + adapter + everything needed to go on. The rest (schedule, clipping, logging, callbacks, loggers) is stock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import SequentialSampler
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from qllava.checkpoint.saved import read_seal
from qllava.checkpoint.weights import llava_of, load_trained, save_trained
from qllava.data.collator import collate_step
from qllava.data.images import normalize
from qllava.data.steps import StepBuilder, step_dataset
from qllava.errors import DeviceError, RunError
from qllava.model.attention import AttentionKernel, use_kernel
from qllava.model.build import projector_parameters
from qllava.model.checkpointing import checkpoint_layers
from qllava.model.forward import loss_sum
from qllava.model.lora_linear import join_lora
from qllava.model.precision import autocast
from qllava.train.health import Health
from qllava.train.optimizer import Optimizer, build_optimizer
from qllava.train.recovery import is_out_of_memory, random_state, restore_random_state
from qllava.train.room import Room, smaller_room
from qllava.train.saving import Saver
from qllava.train.stages import freeze_all, trainable_groups, unfreeze

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
        args: from `arguments.trainer_arguments`.
        builder: of the steps; also builds a step again when it did not fit.
        room: the token budget and checkpointing policy to begin with.
        tokenizer: handed on to TRL, which insists on one.
        normalization: of the pixels; done on the device.
        learning_rate, projector_learning_rate: of LoRA and of the projector.
        optimizer: see `optimizer.choose_optimizer`.
        make_saver: from the number of trained parameters to what writes checkpoints.
        health: looks at every step before the weights change.
        stalled_after: seconds without a batch from any data worker that end the run.
        callbacks: stock callbacks.
        on_smaller: told the new room each time a step ran out of memory.
    """

    def __init__(
        self,
        *,
        model: PeftModel | LlavaForConditionalGeneration,
        args: SFTConfig,
        builder: StepBuilder,
        room: Room,
        tokenizer: PreTrainedTokenizerFast,
        normalization: Normalization,
        learning_rate: float,
        projector_learning_rate: float,
        optimizer: Optimizer,
        make_saver: Callable[[int], Saver],
        health: Health,
        stalled_after: float,
        callbacks: list[TrainerCallback],
        on_smaller: Callable[[Room], None] = lambda room: None,
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
            train_dataset=step_dataset(builder),
            data_collator=collate_step,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        if pretend:
            model._hf_peft_config_loaded = False
        # It prints every log line to stdout, which belongs to results.
        self.remove_callback(PrinterCallback)
        self.trainable_parameters = unfreeze(model)
        join_lora(model)
        self.step_figures: dict[str, float] = {}
        self.rejected: dict[str, str] = {}
        self._builder = builder
        self._on_smaller = on_smaller
        self._normalization = normalization
        self._learning_rates = {"learning_rate": learning_rate, "projector_learning_rate": projector_learning_rate}
        self._optimizer_kind = optimizer
        self.saver = make_saver(self.trainable_parameters)
        self._health = health
        self._stalled_after = stalled_after
        self.set_room(room)

    # One step

    @property
    def room(self) -> Room:
        """The token budget and checkpointing policy in force."""
        return self._room

    def set_room(self, room: Room) -> None:
        """Change both; steps that were built for another budget are built again when their turn comes."""
        self._room = room
        self._builder.budget.set(room.token_budget)
        checkpoint_layers(llava_of(self.model), room.checkpoint_every)

    def set_attention(self, kernel: AttentionKernel) -> None:
        """Choose the language model's attention kernel."""
        use_kernel(llava_of(self.model), kernel)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward over all packs of the step; one that runs out of memory is done again in less room.

        Returns: () the mean loss per supervised token of the global batch, detached.

        Raises:
            DeviceError: a single sample does not fit, with every layer recomputed.
        """
        del num_items_in_batch  # Trainer cannot count nested labels; the row brings its own normaliser.
        self.rejected.update(inputs["rejected"])
        if inputs["token_budget"] != (self._room.token_budget or 0):
            # Built ahead by a worker, before the budget changed.
            inputs = self._build_again(inputs["step"])
        randomness = random_state()
        while True:
            try:
                return self._run_packs(model, inputs)
            except RuntimeError as error:
                # Other processes of a distributed run would wait for this one's gradients.
                if not is_out_of_memory(error) or self.args.world_size > 1:
                    raise
            # Outside the handler: the error's traceback held the step's activations.
            self._shrink(inputs)
            restore_random_state(randomness)
            inputs = self._build_again(inputs["step"])

    def _run_packs(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        started = time.perf_counter()
        llava = self._ready_to_train(model)
        supervised = max(1, inputs["supervised"])
        total = torch.zeros((), device=self.args.device)
        correct = torch.zeros((), device=self.args.device)
        for number, pack in enumerate(self._prepare_inputs(inputs)["packs"]):
            self._pack_number = number
            if len(pack["target"]) == 0:
                continue
            loss, right = self._run_pack(llava, pack, supervised)
            total += loss
            correct += right
        self.step_figures = {
            "token_accuracy": float(correct) / supervised,
            "samples": inputs["samples"],
            "tokens": inputs["tokens"],
            "supervised_tokens": inputs["supervised"],
            "tokens_alone": inputs["tokens_alone"],
            "token_budget": inputs["token_budget"],
            "packs": len(inputs["packs"]),
            "step_seconds": time.perf_counter() - started,
        }
        mean: torch.Tensor = total / supervised
        return mean

    def _ready_to_train(self, model: torch.nn.Module) -> LlavaForConditionalGeneration:
        model.train()
        llava = llava_of(self.accelerator.unwrap_model(model))
        llava.model.vision_tower.eval()
        return llava

    def _run_pack(
        self, llava: LlavaForConditionalGeneration, pack: dict[str, torch.Tensor], supervised: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of one pack's loss over `supervised`; its summed loss, detached, and how many tokens were right."""
        with autocast(str(self.args.device)):
            loss, right = loss_sum(llava, self._with_normalized_pixels(pack))
        self.accelerator.backward(loss / supervised)
        return loss.detach(), right

    def rehearse(self, pack: dict[str, torch.Tensor]) -> None:
        """Two forward and backward passes of a pack, on top of each other as in a step; afterwards all is as before.

        Raises:
            torch.OutOfMemoryError: it does not fit (or the RuntimeError that CUDA raises instead).
        """
        randomness = random_state()
        try:
            llava = self._ready_to_train(self.model)
            for _ in range(2):
                self._run_pack(llava, self._prepare_inputs(pack), max(1, len(pack["target"])))
        finally:
            self.model.zero_grad(set_to_none=True)
            restore_random_state(randomness)

    def _build_again(self, step: int) -> dict[str, Any]:
        return collate_step([self._builder.build(step)])

    def _shrink(self, inputs: dict[str, Any]) -> None:
        """Forget the broken step's gradients and take the next smaller room."""
        self.model.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        pack = inputs["packs"][self._pack_number]
        tokens, samples = len(pack["input_ids"]), inputs["pack_samples"][self._pack_number]
        room = smaller_room(self._room, tokens=tokens, samples=samples)
        if room is None:
            raise DeviceError(
                f"step {inputs['step'] + 1}: a sample of {tokens} tokens does not fit the memory, with every layer "
                f"recomputed; use --set data.max_length={max(1, tokens // 2)}, a smaller --recipe, or close other "
                "programs"
            )
        self.set_room(room)
        self._on_smaller(room)

    def _with_normalized_pixels(self, pack: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if "pixel_values" not in pack:
            return pack
        pixels = normalize(pack["pixel_values"], self._normalization.mean, self._normalization.std)
        return {**pack, "pixel_values": pixels}

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with one group for LoRA and one for the projector."""
        del model
        if getattr(self, "optimizer", None) is None:
            self.optimizer: torch.optim.Optimizer = build_optimizer(
                self._optimizer_kind,
                trainable_groups(self.model, **self._learning_rates),
                keep_fp32=[parameter for _, parameter in projector_parameters(llava_of(self.model))],
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                eps=self.args.adam_epsilon,
                weight_decay=self.args.weight_decay,
            )
        return self.optimizer

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The step's own figures join loss, learning rate and gradient norm."""
        super().log({**logs, **self.step_figures}, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not estimated here: the stock estimate looks for `input_ids` in the batch; the planner does better."""
        del inputs
        return 0

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        # The last stop before `optimizer.step`, and before clipping spreads the NaN of one group over all.
        self._health.check(
            self.state.global_step,
            loss=self._tr_loss,
            groups=self.optimizer.param_groups,
            supervised=int(self.step_figures["supervised_tokens"]),
        )
        return super()._clip_grad_norm(model)

    def get_train_dataloader(self) -> Any:
        """The stock one, which gives up on workers that deliver nothing."""
        loader = super().get_train_dataloader()
        if self.args.dataloader_num_workers > 0:
            # Accelerate hands out a wrapper; the loader inside it is the one that waits.
            getattr(loader, "base_dataloader", loader).timeout = self._stalled_after
        return loader

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> SequentialSampler:
        # The step plan has shuffled already; its order is what a resumed run continues.
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    # Checkpoints

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        del model, trial
        self._health.check_weights(self.state.global_step - 1, self.optimizer.param_groups)
        self.saver.save(
            self.state.global_step, self._fill_checkpoint, {**asdict(self._room), "rejected": self.rejected}
        )

    def _fill_checkpoint(self, folder: Path) -> None:
        save_trained(self.model, folder)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))
        self.state.save_to_json(str(folder / TRAINER_STATE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        del model
        load_trained(self.model, Path(resume_from_checkpoint))
        # Samples that were left out before the interruption are still to be listed at the end.
        self.rejected.update(read_seal(Path(resume_from_checkpoint)).facts["rejected"])

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        raise RunError("StageTrainer saves through checkpoints; use checkpoint.weights.save_trained")
