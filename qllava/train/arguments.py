"""What a stage tells the stock Trainer: everything it is not to do by itself, and why."""

from __future__ import annotations

from pathlib import Path

from trl import SFTConfig


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
    seed: int,
    device: str,
    workers: int,
    report_to: list[str],
) -> SFTConfig:
    """The stock configuration of a stage.

    Args:
        run_folder: the run.
        steps: optimizer steps in all.
        device: `cpu` or `cuda`.
        report_to: names of stock loggers, e.g. `["wandb"]`.
    """
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
        # Ours: autocast in the trainer's `training_step` over fp32 masters.
        bf16=False,
        fp16=False,
        use_cpu=device == "cpu",
        # Ours too: `model.checkpointing`, which can change between two steps.
        activation_checkpointing=False,
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
        # Pinned pictures cross to the card while it still computes.
        accelerator_config={"non_blocking": device == "cuda"},
    )
