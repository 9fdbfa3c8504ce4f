"""Train the tiny CLIP vision tower that ships with qllava, on rendered scenes only.

    python examples/train_scene_clip.py --out qllava/model/weights/scene-clip

The tower is transformers' own `CLIPVisionModel`. Three kinds of losses shape it: CLIP's contrastive one against
captions (its text side is a bag of words and word pairs, thrown away afterwards); linear heads on the *patch* tokens,
which LLaVA reads; and linear heads on the CLS token that tell the scene as a whole.

The patch tokens of a third of the frame speak like words side by side: its size and place, and below them the colour
and the shape of the object whose centre lies there; all others are silent. (Tried on the embedded language model with
tokens made of its own words: after 480 questions, 0.68 right with one word a token, 0.55 with all in one token.) The
heads name these classes, and additive ones count them, so that a sum over a picture's patches is its bag of words.
Held-out configurations are never shown.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel

from qllava.demo.scenes import COLORS, SHAPES, SIZES, Scene, Split, captions, random_scene, render_scene

LAYER = -1  # the hidden state LLaVA is to read: all four layers shape the patch tokens
MEAN, STD = 0.5, 0.5
COLOR_NAMES, SIZE_NAMES = tuple(COLORS), tuple(SIZES)
# Classes of each statement; 0: this patch tells nothing.
LOCAL = {"color": 9, "shape": 5, "size": 4, "column": 4, "row": 4, "twins": 4, "largest": 3}
WORDS = re.compile(r"[a-z]+")


def patch_roles(grid: int) -> dict[str, tuple[int, int]]:
    """Which patch of a third of the frame tells what: (row, column) offsets inside it; `grid` patches a side.

    Every statement about an object is the business of one token only: what a language model has to find, it finds in
    one place. Where a third has four patches they read like words: size and place, and below them colour and shape.
    """
    if grid == 3:
        return dict.fromkeys(LOCAL, (0, 0))
    if grid != 6:
        raise SystemExit(f"{grid} patches a side; give 3 or 6 (--size is 3 or 6 times --patch)")
    places = {"size": (0, 0), "largest": (0, 0), "column": (0, 1), "row": (0, 1)}
    return {**places, "color": (1, 0), "shape": (1, 1), "twins": (1, 1)}


def local_targets(scene: Scene, grid: int) -> np.ndarray:
    """(P, len(LOCAL)) classes of what each patch has to tell; 0 where it tells nothing."""
    shapes = [one.shape for one in scene.objects]
    largest = max(one.side for one in scene.objects)
    targets = np.zeros((grid * grid, len(LOCAL)), dtype=np.int8)
    roles = patch_roles(grid)
    for one in scene.objects:
        column, row = one.cell
        classes = {
            "color": COLOR_NAMES.index(one.color),
            "shape": SHAPES.index(one.shape),
            "size": SIZE_NAMES.index(one.size),
            "column": column,
            "row": row,
            "twins": shapes.count(one.shape) - 1,
            "largest": int(one.side == largest),
        }
        for index, name in enumerate(LOCAL):
            down, right = roles[name]
            scale = grid // 3
            targets[(row * scale + down) * grid + column * scale + right, index] = 1 + classes[name]
    return targets


def global_targets(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """((4,) number of objects of each shape, (8 + 32,) 0/1 presence of each colour and of each coloured shape)."""
    counts = np.zeros(len(SHAPES), dtype=np.int8)
    present = np.zeros(len(COLORS) * (1 + len(SHAPES)), dtype=np.int8)
    for one in scene.objects:
        color, shape = COLOR_NAMES.index(one.color), SHAPES.index(one.shape)
        counts[shape] += 1
        present[color] = present[len(COLORS) + color * len(SHAPES) + shape] = 1
    return counts, present


class Scenes:
    """Rendered scenes with targets, all in memory: `pixels` (N, H, W, 3) uint8."""

    def __init__(self, count: int, split: Split, seed: str, size: int, grid: int, vocabulary: dict[str, int]) -> None:
        rng = random.Random(seed)  # noqa: S311
        self.pixels = np.empty((count, size, size, 3), dtype=np.uint8)
        self.local = np.empty((count, grid * grid, len(LOCAL)), dtype=np.int8)
        self.counts = np.empty((count, len(SHAPES)), dtype=np.int8)
        self.present = np.empty((count, len(COLORS) * (1 + len(SHAPES))), dtype=np.int8)
        self.words = np.zeros((count, 3, 80), dtype=np.int64)
        for index in range(count):
            scene = random_scene(rng, split)
            self.pixels[index] = np.asarray(render_scene(scene, size=size))
            self.local[index] = local_targets(scene, grid)
            self.counts[index], self.present[index] = global_targets(scene)
            for row, caption in enumerate(captions(scene)):
                words = WORDS.findall(caption.lower())
                terms = [*words, *(f"{one} {two}" for one, two in pairwise(words))]
                ids = [vocabulary.setdefault(term, len(vocabulary) + 1) for term in terms]
                self.words[index, row, : len(ids)] = ids

    def images(self, rows: np.ndarray) -> Tensor:
        """(B, 3, H, W), normalised as the image processor does."""
        return (torch.from_numpy(self.pixels[rows]).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


class Heads(nn.Module):
    """Everything around the tower that is thrown away: linear heads on patch tokens, and the text side."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.local = nn.Linear(width, sum(LOCAL.values()))
        self.additive = nn.Linear(width, sum(LOCAL.values()) - len(LOCAL))
        self.counts = nn.Linear(width, len(SHAPES) * 4)
        self.present = nn.Linear(width, len(COLORS) * (1 + len(SHAPES)))
        self.image = nn.Linear(width, 128, bias=False)
        self.embed = nn.Embedding(vocabulary, 128, padding_idx=0)
        self.text = nn.Linear(128, 128, bias=False)
        self.scale = nn.Parameter(torch.tensor(2.66))

    def caption(self, words: Tensor) -> Tensor:
        """(B, 80) ids of words and word pairs, 0 is padding -> (B, 128)."""
        said: Tensor = self.text(self.embed(words).sum(1) / (words > 0).sum(1, keepdim=True))
        return said


def dense_losses(heads: Heads, hidden: Tensor, data: Scenes, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Losses of the local heads on patch tokens and of the global heads on the CLS token; `hidden` (B, 1 + P, V)."""
    patches, cls = hidden[:, 1:], hidden[:, 0]
    local = torch.from_numpy(data.local[rows]).long()
    loss = torch.zeros(())
    for index, logits in enumerate(heads.local(patches).split(list(LOCAL.values()), dim=-1)):
        weight = 0.2 + 0.8 * (local[..., index] > 0).float()  # most patches have nothing to tell
        each = functional.cross_entropy(logits.flatten(0, 1), local[..., index].flatten(), reduction="none")
        loss = loss + (each * weight.flatten()).sum() / weight.sum()
    told = [functional.one_hot(local[..., index], size)[..., 1:] for index, size in enumerate(LOCAL.values())]
    loss = loss + 0.5 * functional.mse_loss(
        heads.additive(patches), torch.cat(told, -1).float(), reduction="sum"
    ) / len(rows)
    counts = torch.from_numpy(data.counts[rows]).long()
    logits = heads.counts(cls).unflatten(-1, (len(SHAPES), 4))
    whole = functional.cross_entropy(logits.flatten(0, 1), counts.flatten())
    present = torch.from_numpy(data.present[rows]).float()
    whole = whole + 4 * functional.binary_cross_entropy_with_logits(heads.present(cls), present)
    return loss, whole


@torch.no_grad()
def probe(model: CLIPVisionModel, heads: Heads, data: Scenes) -> dict[str, float]:
    """Accuracy of the linear heads on held-out scenes: patches with something to tell, silent ones, whole scenes."""
    model.eval()
    right = dict.fromkeys(["silent", *LOCAL, "counts", "pairs"], 0.0)
    total = dict.fromkeys(right, 0)
    for start in range(0, len(data.pixels), 250):
        rows = np.arange(start, min(start + 250, len(data.pixels)))
        hidden = model(data.images(rows), output_hidden_states=True).hidden_states[LAYER]
        patches, cls = hidden[:, 1:], hidden[:, 0]
        local = torch.from_numpy(data.local[rows]).long()
        parts = heads.local(patches).split(list(LOCAL.values()), dim=-1)
        for index, name in enumerate(LOCAL):
            hit, shown = parts[index].argmax(-1) == local[..., index], local[..., index] > 0
            right[name] += hit[shown].sum().item()
            total[name] += int(shown.sum())
            right["silent"] += hit[~shown].sum().item()
            total["silent"] += int((~shown).sum())
        counts = heads.counts(cls).unflatten(-1, (len(SHAPES), 4)).argmax(-1)
        hit = (counts == torch.from_numpy(data.counts[rows]).long()).all(-1)
        pairs = (heads.present(cls) > 0) == torch.from_numpy(data.present[rows]).bool()
        for name, one in (("counts", hit), ("pairs", pairs.all(-1))):
            right[name] += one.sum().item()
            total[name] += one.numel()
    model.train()
    return {name: right[name] / max(total[name], 1) for name in right}


def save(model: CLIPVisionModel, out: Path, size: int) -> None:
    """Write half-precision weights (they load as fp32), configuration and stock CLIP image processor settings."""
    model.config.dtype = torch.float32
    half = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    half.pop("vision_model.embeddings.position_ids", None)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out, state_dict=half)
    config = json.loads((out / "config.json").read_text())
    config["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    processor = {
        "crop_size": {"height": size, "width": size},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [MEAN] * 3,
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [STD] * 3,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": size},
    }
    (out / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the tower")
    parser.add_argument("--scenes", type=int, default=20000, help="scenes rendered once, then shuffled")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--size", type=int, default=96, help="pixels")
    parser.add_argument("--patch", type=int, default=16, help="pixels")
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--mlp", type=int, default=640)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Render, train, probe, save."""
    args = parse_arguments()
    torch.manual_seed(args.seed)
    order = np.random.default_rng(args.seed)
    vocabulary: dict[str, int] = {}
    grid = args.size // args.patch
    began = time.time()
    train = Scenes(args.scenes, "train", f"{args.seed}/clip", args.size, grid, vocabulary)
    heldout = Scenes(2000, "heldout", f"{args.seed}/clip", args.size, grid, vocabulary)
    print(f"rendered {args.scenes + 2000} scenes in {time.time() - began:.0f} s, {len(vocabulary)} words")

    config = CLIPVisionConfig(
        hidden_size=args.width,
        intermediate_size=args.mlp,
        num_hidden_layers=args.layers,
        num_attention_heads=args.width // 48,
        image_size=args.size,
        patch_size=args.patch,
        projection_dim=128,
    )
    model = CLIPVisionModel(config)
    heads = Heads(args.width, len(vocabulary) + 1)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.05)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {grid * grid} patches")

    began = time.time()
    for step in range(1, args.steps + 1):
        rows = order.integers(0, args.scenes, args.batch)
        output = model(train.images(rows), output_hidden_states=True)
        local, whole = dense_losses(heads, output.hidden_states[LAYER], train, rows)
        image = functional.normalize(heads.image(output.pooler_output), dim=-1)
        words = torch.from_numpy(train.words[rows, step % 3])
        text = functional.normalize(heads.caption(words), dim=-1)
        logits = heads.scale.exp() * image @ text.T
        truth = torch.arange(len(rows))
        contrastive = (functional.cross_entropy(logits, truth) + functional.cross_entropy(logits.T, truth)) / 2
        loss = local + whole + 0.3 * contrastive
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            each = f"local {local.item():.3f} whole {whole.item():.3f} contrastive {contrastive.item():.3f}"
            print(f"step {step} {each} {(time.time() - began) / step:.3f} s/step", flush=True)
        if step % 500 == 0 or step == args.steps:
            report = probe(model, heads, heldout)
            print("  held-out " + " ".join(f"{name} {value:.3f}" for name, value in report.items()), flush=True)
            save(model, args.out, args.size)


if __name__ == "__main__":
    main()
