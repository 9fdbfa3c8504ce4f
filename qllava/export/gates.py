"""Proof that an export is the run: compared tensor by tensor, and as its users load it, by logits and loss.

Shapes: T tokens of a probe, S supervised positions, K vocabulary rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch.nn import functional
from transformers import AutoProcessor, LlavaForConditionalGeneration

from qllava.checkpoint.load import LoadedRun
from qllava.checkpoint.weights import llava_of
from qllava.data.collator import collate_pack
from qllava.data.images import normalize, pixel_statistics, to_pixels
from qllava.data.trees import grow_tree
from qllava.errors import ModelError
from qllava.export.merge import ADAPTER, Base, dequantised, merged_tensors
from qllava.export.names import published_name
from qllava.export.probe import Probe, Probes
from qllava.export.shards import shard_files
from qllava.model.forward import supervised_logits

# fp32 logits of merged and unmerged model: the same sums in another order.
MOST_LOGIT_ERROR = 1e-4
# Mean KL over supervised positions, nats: what rounding to bf16 costs (0.002 measured on SmolLM2-135M).
MOST_KL = 0.01
# Held-out loss, nats a token, that another base or precision may add.
MOST_LOSS_ADDED = 0.05
# Pixels after normalisation: the consumer rescales and normalises in another order.
_MOST_PIXEL_ERROR = 1e-3


@dataclass(frozen=True)
class Gate:
    """One comparison: `value` may be at most `limit`."""

    name: str
    value: float
    limit: float

    def __str__(self) -> str:
        return f"{self.name} {self.value:.2g} (at most {self.limit:g})"

    def hold(self) -> Gate:
        """Itself, if it holds.

        Raises:
            ModelError: it does not, so the export is not the run.
        """
        if not self.value <= self.limit:  # NaN fails too
            raise ModelError(f"the export differs from the run: {self}; nothing was written, please report it")
        return self


def check_tensors(loaded: LoadedRun, folder: Path, base: Base = dequantised) -> Gate:
    """Every stored tensor equals round(base + BA), with BA by PEFT's own way of computing it.

    Raises:
        ModelError: one is missing, left over, or differs.
    """
    layers = {name: layer for name, layer in llava_of(loaded.model).named_modules() if isinstance(layer, LoraLayer)}
    seen: set[str] = set()
    worst = 0.0
    stored = _Stored(folder)
    for name, tensor in merged_tensors(loaded.model, base):
        layer = layers.get(name.removesuffix(".weight"))
        expected = tensor
        if layer is not None and name.endswith(".weight"):
            weight = base(name.removesuffix(".weight"), layer.get_base_layer()).float()
            expected = weight + cast(Any, layer).get_delta_weight(ADAPTER).float().to(weight.device)
        found = stored.read(published_name(name))
        seen.add(published_name(name))
        if found.shape != expected.shape:
            raise ModelError(
                f"the export's {published_name(name)} is {tuple(found.shape)}, not {tuple(expected.shape)}"
            )
        difference = (found.float() - expected.cpu().float()).abs()
        # Half a unit in the last of bf16's 8 bits, and what another order of the same sum may move.
        allowed = expected.cpu().float().abs() * 2.0**-8 + 1e-6
        worst = max(worst, float((difference / allowed).max()) if difference.numel() else 0.0)
    left_over = stored.names - seen
    if left_over:
        raise ModelError(f"the export holds {sorted(left_over)[0]}, which the run does not have")
    return Gate("worst tensor against base + BA, in units of bf16 rounding", worst, 1.0).hold()


def load_back(folder: Path, *, device: str, dtype: torch.dtype) -> LlavaForConditionalGeneration:
    """The folder as a user loads it: no key may be missing, left over, or of another shape.

    Raises:
        ModelError: one is.
    """
    loaded: Any = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, device_map={"": device}, output_loading_info=True
    )
    model, info = loaded
    trouble = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
    if trouble:
        kind, keys = next(iter(trouble.items()))
        raise ModelError(f"stock transformers finds {kind.replace('_', ' ')} in the export: {keys[0]}")
    model.eval()
    return cast(LlavaForConditionalGeneration, model)


def consumer_inputs(folder: Path, probes: Probes, loaded: LoadedRun) -> list[dict[str, torch.Tensor]]:
    """What the export's own processor makes of the probes.

    Raises:
        ModelError: other token ids or other pixels than the run was trained with.
    """
    processor: Any = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    made = []
    for probe in probes.samples:
        inputs = processor.apply_chat_template(
            _with_picture(probe), tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=False
        )
        ids = inputs["input_ids"][0].tolist()
        if ids != probe.encoded.input_ids:
            where = next((i for i, (a, b) in enumerate(zip(ids, probe.encoded.input_ids, strict=False)) if a != b), -1)
            raise ModelError(
                f"the export's processor writes {len(ids)} tokens where the run was trained with "
                f"{len(probe.encoded.input_ids)}, the first difference at {where}"
            )
        pixels = _pixels(probe, loaded)
        difference = float((inputs["pixel_values"].float() - pixels).abs().max())
        if not difference <= _MOST_PIXEL_ERROR:
            raise ModelError(f"the export's processor makes other pixels than training saw (by {difference:.3g})")
        made.append({"input_ids": inputs["input_ids"], "pixel_values": inputs["pixel_values"]})
    return made


@torch.no_grad()
def run_logits(loaded: LoadedRun, probes: Probes) -> list[torch.Tensor]:
    """(S, K) fp32 of each probe by the run itself, computed in fp32; the loaded model is fp32 afterwards."""
    into_fp32(loaded.model)
    llava = llava_of(loaded.model)
    found = []
    for probe in probes.samples:
        tree = grow_tree([probe.encoded], prefix=0)
        pack = collate_pack(tree, None) | {"pixel_values": _pixels(probe, loaded)}
        logits = supervised_logits(llava, {name: tensor.to(loaded.device) for name, tensor in pack.items()})
        found.append(logits.cpu())
    return found


@torch.no_grad()
def consumer_logits(
    model: LlavaForConditionalGeneration | PeftModel, inputs: Sequence[dict[str, torch.Tensor]], probes: Probes
) -> list[torch.Tensor]:
    """(S, K) fp32 of each probe by the model's stock forward."""
    found = []
    dtype = next(llava_of(model).model.vision_tower.parameters()).dtype
    for made, probe in zip(inputs, probes.samples, strict=True):
        here = {name: tensor.to(model.device) for name, tensor in made.items()}
        here["pixel_values"] = here["pixel_values"].to(dtype)
        source = torch.from_numpy(grow_tree([probe.encoded], prefix=0).source)
        logits = model(**here, attention_mask=torch.ones_like(here["input_ids"])).logits[0]
        found.append(logits.cpu()[source].float())
    return found


def into_fp32(model: torch.nn.Module) -> None:
    """Make a model compute in fp32, in place; 4-bit codes stay, and dequantise to what they did."""
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype = torch.float32
            module.compute_type_is_set = True
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point():
                parameter.data = parameter.data.float()
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                module._buffers[name] = buffer.float()


def with_unrounded(model: LlavaForConditionalGeneration, loaded: LoadedRun, base: Base = dequantised) -> None:
    """Give a loaded-back model the merged weights before they were rounded to bf16; all of it becomes fp32."""
    into_fp32(model)
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, tensor in merged_tensors(loaded.model, base):
            own[name].copy_(tensor)


def logit_error(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> Gate:
    """The largest difference of logits, relative to the largest logit."""
    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True))
    return Gate("fp32 logits, relative", error, MOST_LOGIT_ERROR)


def divergence(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> Gate:
    """Mean KL(run || export) over supervised positions, nats."""
    log_found, log_expected = (functional.log_softmax(torch.cat(list(x)), -1) for x in (found, expected))
    kl = functional.kl_div(log_found, log_expected, reduction="batchmean", log_target=True)
    return Gate("bf16 KL, nats", max(0.0, float(kl)), MOST_KL)


def losses(logits: Sequence[torch.Tensor], probes: Probes) -> float:
    """Mean loss in nats a supervised token."""
    targets = [torch.from_numpy(grow_tree([probe.encoded], prefix=0).target) for probe in probes.samples]
    return float(functional.cross_entropy(torch.cat(list(logits)), torch.cat(targets)))


def loss_added(found: float, expected: float) -> Gate:
    """What the export's held-out loss has more than the run's."""
    return Gate("held-out loss above the run's, nats", found - expected, MOST_LOSS_ADDED)


def _pixels(probe: Probe, loaded: LoadedRun) -> torch.Tensor:
    """(1, 3, H, W) normalised as in training."""
    pixels = np.stack([to_pixels(loaded.image_processor, probe.picture)])
    return normalize(torch.from_numpy(pixels), *pixel_statistics(loaded.image_processor))


def _with_picture(probe: Probe) -> list[dict[str, Any]]:
    """The conversation as a user hands it over, the picture in its place."""
    return [
        {
            "role": message["role"],
            "content": [
                {"type": "image", "image": probe.picture} if part["type"] == "image" else dict(part)
                for part in message["content"]
            ],
        }
        for message in probe.conversation.messages
    ]


class _Stored:
    """The tensors of a folder by name, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        for path in shard_files(folder):
            with _opened(path) as file:
                self._files.update(dict.fromkeys(file.keys(), path))
        self.names = set(self._files)

    def read(self, name: str) -> torch.Tensor:
        if name not in self._files:
            raise ModelError(f"the export lacks {name}")
        with _opened(self._files[name]) as file:
            tensor: torch.Tensor = file.get_tensor(name)
            return tensor


def _opened(path: Path) -> Any:
    return safe_open(path, framework="pt")
