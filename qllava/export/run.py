"""`qllava export` as a table of contents: load, choose what to compare on, write aside, prove, name, keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel

from qllava.checkpoint.load import LoadedRun, load_run
from qllava.checkpoint.manifest import Run, read_run
from qllava.checkpoint.published import ADAPTER_FOLDER
from qllava.checkpoint.weights import llava_of
from qllava.errors import ModelError, UsageError
from qllava.export import gates
from qllava.export.adapter import write_adapter
from qllava.export.card import Form, model_card
from qllava.export.full_base import full_base
from qllava.export.gguf_pair import export_gguf
from qllava.export.hugging_face import DTYPE, write_four_bit, write_merged
from qllava.export.merge import Base, dequantised
from qllava.export.probe import Probes, choose_probes
from qllava.files import atomic_directory
from qllava.model.quantize import audit_quantization
from qllava.plan.device import processor as system

MergeBase = Literal["quantised", "full"]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """What was written; `size` bytes of weights, `gates` the comparisons that held, `lines` what else was measured."""

    folder: Path
    form: Form
    size: int
    gates: tuple[gates.Gate, ...]
    lines: tuple[str, ...] = ()


def export(
    run: Run,
    form: Form,
    out: Path,
    *,
    device: str,
    note: Note,
    merge_base: MergeBase = "quantised",
    llama_cpp: Path | None = None,
) -> Exported:
    """Write a run as a model for others; the folder appears when every comparison held, or not at all.

    Args:
        run: finished.
        form: `hf`, `hf-4bit`, `adapter` or `gguf`.
        out: a folder that does not exist, or is empty.
        device: `cpu` or `cuda`, where it is merged and compared.
        note: told what is being done.
        merge_base: `full` adds LoRA to the original 16-bit weights instead of those it was trained against.
        llama_cpp: for `gguf`, a checkout whose own converter writes the language model.

    Raises:
        UsageError: `out` holds something, or `merge_base` without a merge.
        ModelError: a comparison failed.
        RunError: the run's weights are damaged.
    """
    refuse_used(out)
    if merge_base == "full" and form != "hf":
        raise UsageError(f"--merge-base full belongs to --to hf; {form} merges nothing")
    if form == "adapter":
        return _adapter(run, out, device, note)
    if form == "gguf":
        total, proofs, said = export_gguf(run, out, device=device, note=note, llama_cpp=llama_cpp)
        return Exported(out, form, total, tuple(proofs), tuple(said))
    note("loading the run")
    loaded = load_run(run, device=device)
    probes = choose_probes(loaded)
    note(f"comparing on {len(probes.samples)} conversations, {probes.supervised} answer tokens ({probes.origin})")
    with atomic_directory(out.resolve()) as aside:
        if form == "hf":
            base = full_base(run, device=device) if merge_base == "full" else dequantised
            size, held, lines = _merged(loaded, probes, aside, note, base)
            into = "the original 16-bit weights" if merge_base == "full" else "the dequantised NF4 base"
        else:
            size, held, lines = _four_bit(loaded, probes, aside, note)
            into = ""
        card = model_card(run, form, out.name, held, merged_into=into)
        (aside / "README.md").write_text(card, encoding="utf-8")
    return Exported(out, form, size, tuple(held), tuple(lines))


def refuse_used(out: Path) -> None:
    """Never write over anything.

    Raises:
        UsageError: `out` is a file or holds something.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UsageError(f"--out {out} holds something already; name a new folder")


def _merged(
    loaded: LoadedRun, probes: Probes, folder: Path, note: Note, base: Base
) -> tuple[int, list[gates.Gate], list[str]]:
    size = write_merged(loaded, folder, base=base)
    note("comparing every tensor")
    held = [gates.check_tensors(loaded, folder, base)]
    if size * 1.2 > free_bytes(loaded.device):
        note(f"{size / 2**30:.1f} GiB do not fit in memory beside the run: compared tensor by tensor alone")
        return size, held, ["not loaded back: too large for this machine"]
    note("loading it back as its users will")
    inputs = gates.consumer_inputs(folder, probes, loaded)
    model = gates.load_back(folder, device=loaded.device, dtype=DTYPE)
    found = gates.consumer_logits(model, inputs, probes)
    expected = gates.run_logits(loaded, probes)
    here, there = gates.losses(found, probes), gates.losses(expected, probes)
    lines = [f"held-out loss: run {there:.4f}, export {here:.4f} nats a token"]
    if base is not dequantised:
        held.append(gates.loss_added(here, there).hold())
        return size, held, [*lines, f"KL to the run: {gates.divergence(found, expected).value:.3g} nats"]
    held.append(gates.divergence(found, expected).hold())
    if size > free_bytes(loaded.device):  # fp32 takes as much again
        return size, held, [*lines, "logits not compared in fp32: too large for this machine"]
    gates.with_unrounded(model, loaded, base)
    held.append(gates.logit_error(gates.consumer_logits(model, inputs, probes), expected).hold())
    return size, held, lines


def _four_bit(loaded: LoadedRun, probes: Probes, folder: Path, note: Note) -> tuple[int, list[gates.Gate], list[str]]:
    if loaded.recipe.model.quantization != "nf4":
        raise UsageError("--to hf-4bit needs a run with quantised weights; this one is in 16 bit: use --to hf")
    adapted = isinstance(loaded.model, PeftModel)
    expected = gates.run_logits(loaded, probes)
    size = write_four_bit(loaded, folder)
    note("loading it back as its users will")
    model = gates.load_back(folder, device=loaded.device, dtype=DTYPE)
    count = audit_quantization(model, quantized=True, compute=DTYPE)
    answering = PeftModel.from_pretrained(model, folder / ADAPTER_FOLDER) if adapted else model
    answering.eval()
    found = gates.consumer_logits(answering, gates.consumer_inputs(folder, probes, loaded), probes)
    here, there = gates.losses(found, probes), gates.losses(expected, probes)
    held = [gates.divergence(found, expected).hold(), gates.loss_added(here, there).hold()]
    lines = [
        f"{count} linears in NF4, all of the language model's, and nothing else",
        f"held-out loss: run {there:.4f}, export {here:.4f} nats a token",
    ]
    return size, held, lines


def _adapter(run: Run, out: Path, device: str, note: Note) -> Exported:
    with atomic_directory(out.resolve()) as aside:
        size = write_adapter(run, aside)
        (aside / "README.md").write_text(model_card(run, "adapter", out.name, ()), encoding="utf-8")
        note("loading it back")
        ours, theirs = (llava_state(load_run(one, device=device)) for one in (run, read_run(aside)))
        for name, tensor in ours.items():
            if not torch.equal(tensor, theirs[name]):
                raise ModelError(f"the export differs from the run in {name}; nothing was written, please report it")
    lines = []
    if Path(run.recipe.model.language_model).exists():
        lines.append(f"its base is a folder of this machine: {run.recipe.model.language_model}; others need it too")
    return Exported(out, "adapter", size, (), tuple(lines))


def llava_state(loaded: LoadedRun) -> dict[str, torch.Tensor]:
    """All that the run learnt: projector and LoRA, on the processor."""
    learnt = {name: p for name, p in loaded.model.named_parameters() if ".lora_" in name}
    projector = llava_of(loaded.model).model.multi_modal_projector.state_dict()
    return {name: tensor.detach().cpu() for name, tensor in (learnt | dict(projector)).items()}


def free_bytes(device: str) -> int:
    """What a model may take here."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info()[0])
    return system().free_bytes
