"""Dimensions of the models a recipe names: from a table, or from a config.json that is on this machine already."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qllava.recipe import ModelSettings

_EMBEDDED = "embedded:"
_EMBEDDED_FOLDER = Path(__file__).parents[1] / "model" / "weights"
# Vicuna's and CLIP's repositories hold pytorch_model*.bin only.
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")


@dataclass(frozen=True)
class LanguageSizes:
    """A Llama-shaped decoder. `download_gb` in 1e9 bytes as the hub serves it; None where nobody has looked."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    tied: bool = False
    download_gb: float | None = None
    head_width: int | None = None

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.head_width or self.width // self.heads

    @property
    def kv_width(self) -> int:
        """Width of the keys (and of the values) of one token in one layer."""
        return self.kv_heads * self.head_dim

    @property
    def query_width(self) -> int:
        """Width of the queries of one token in one layer."""
        return self.heads * self.head_dim

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of one layer's linears: q, k, v, o, gate, up, down. These are quantised and get LoRA."""
        return (
            (self.width, self.query_width),
            (self.width, self.kv_width),
            (self.width, self.kv_width),
            (self.query_width, self.width),
            (self.width, self.mlp),
            (self.width, self.mlp),
            (self.mlp, self.width),
        )

    @property
    def block_parameters(self) -> int:
        """Parameters of all layers' linears."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears)

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embeddings, and of the head unless it is the same matrix."""
        return self.vocab * self.width * (1 if self.tied else 2)

    def lora_parameters(self, rank: int) -> int:
        """Parameters of LoRA A and B of `rank` on every linear."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.linears)


@dataclass(frozen=True)
class TowerSizes:
    """A CLIP or SigLIP vision transformer; `class_token` is CLIP's CLS."""

    layers: int
    width: int
    mlp: int
    image_size: int
    patch_size: int
    class_token: bool = True
    download_gb: float | None = None

    @property
    def patches(self) -> int:
        """Patches of one picture, the CLS token not counted."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def parameters(self) -> int:
        """Parameters: attention, MLP and norms of every layer, embeddings, SigLIP's pooling head (kept, not run)."""
        layer = 4 * self.width * (self.width + 1) + self.mlp * (2 * self.width + 1) + 5 * self.width
        embeddings = 3 * self.patch_size**2 * self.width + (self.patches + 1) * self.width
        pooling = 0 if self.class_token else layer
        return self.layers * layer + embeddings + pooling

    def image_tokens(self, patches: str) -> int:
        """Tokens one picture becomes: `full` keeps CLIP's CLS token, `default` drops it."""
        return self.patches + (1 if self.class_token and patches == "full" else 0)


@dataclass(frozen=True)
class ModelSizes:
    """Both halves of a model; `projector` counts what learns, `projector_frozen` what does not."""

    language: LanguageSizes
    tower: TowerSizes
    image_tokens: int
    projector: int
    projector_frozen: int = 0


# Sources: each repository's config.json; downloads are the weight files transformers fetches.
LANGUAGE: dict[str, LanguageSizes] = {
    "embedded:smollm2-135m": LanguageSizes(30, 576, 9, 3, 1536, 49152, tied=True, download_gb=0.0),
    "lmsys/vicuna-7b-v1.3": LanguageSizes(32, 4096, 32, 32, 11008, 32000, download_gb=13.5),
    "lmsys/vicuna-7b-v1.5": LanguageSizes(32, 4096, 32, 32, 11008, 32000, download_gb=13.5),
    "lmsys/vicuna-13b-v1.5": LanguageSizes(40, 5120, 40, 40, 13824, 32000, download_gb=26.0),
    "NousResearch/Meta-Llama-3.1-8B-Instruct": LanguageSizes(32, 4096, 32, 8, 14336, 128256, download_gb=16.1),
    "meta-llama/Llama-3.1-8B-Instruct": LanguageSizes(32, 4096, 32, 8, 14336, 128256, download_gb=16.1),
    "mistralai/Mistral-7B-Instruct-v0.3": LanguageSizes(32, 4096, 32, 8, 14336, 32768, download_gb=14.5),
    "Qwen/Qwen2.5-7B-Instruct": LanguageSizes(28, 3584, 28, 4, 18944, 152064, download_gb=15.2),
    "Qwen/Qwen2.5-3B-Instruct": LanguageSizes(36, 2048, 16, 2, 11008, 151936, tied=True, download_gb=6.2),
    "Qwen/Qwen2.5-1.5B-Instruct": LanguageSizes(28, 1536, 12, 2, 8960, 151936, tied=True, download_gb=3.1),
    "Qwen/Qwen2.5-0.5B-Instruct": LanguageSizes(24, 896, 14, 2, 4864, 151936, tied=True, download_gb=1.0),
}
TOWERS: dict[str, TowerSizes] = {
    "embedded:scene-clip": TowerSizes(4, 128, 512, 64, 16, download_gb=0.0),
    "openai/clip-vit-large-patch14": TowerSizes(24, 1024, 4096, 224, 14, download_gb=1.7),
    "openai/clip-vit-large-patch14-336": TowerSizes(24, 1024, 4096, 336, 14, download_gb=1.7),
    "google/siglip-so400m-patch14-384": TowerSizes(27, 1152, 4304, 384, 14, class_token=False, download_gb=3.5),
}


def model_sizes(model: ModelSettings) -> ModelSizes | None:
    """The dimensions behind a recipe's names; None if one of them is known neither here nor on this machine."""
    language = LANGUAGE.get(model.language_model) or _language_from_config(model.language_model)
    tower = _tower_from_config(model.vision_tower) or TOWERS.get(model.vision_tower)
    if language is None or tower is None:
        return None
    first = tower.width * language.width + language.width
    # A linear projector keeps a second, frozen identity matrix: the stock class has two layers.
    second = language.width * (language.width + 1)
    linear = model.projector == "linear"
    return ModelSizes(
        language,
        tower,
        tower.image_tokens(model.patches),
        projector=first if linear else first + second,
        projector_frozen=second if linear else 0,
    )


def download_gb(name: str, known: float | None) -> float | None:
    """GB (1e9 bytes) still to fetch for one model: 0 if it is a folder, embedded or cached, None if nobody knows."""
    if name.startswith(_EMBEDDED) or Path(name).exists() or cached_folder(name) is not None:
        return 0.0
    return known


def recipe_download_gb(model: ModelSettings) -> float | None:
    """GB (1e9 bytes) still to fetch for both models of a recipe; None if one of them is unknown."""
    language = LANGUAGE.get(model.language_model)
    tower = TOWERS.get(model.vision_tower)
    parts = (
        download_gb(model.language_model, language.download_gb if language else None),
        download_gb(model.vision_tower, tower.download_gb if tower else None),
    )
    return None if None in parts else sum(part for part in parts if part is not None)


def hub_cache() -> Path:
    """Where Hugging Face keeps downloads. Source: huggingface_hub's documented environment variables."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"])
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(home) / "hub"


def cached_folder(name: str) -> Path | None:
    """The snapshot of a hub id in the cache that holds weights, if there is one."""
    snapshots = hub_cache() / f"models--{name.replace('/', '--')}" / "snapshots"
    if not snapshots.is_dir():
        return None
    for folder in sorted(snapshots.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True):
        if any(next(folder.glob(pattern), None) for pattern in _WEIGHTS):
            return folder
    return None


def _config(name: str) -> dict[str, Any] | None:
    if name.startswith(_EMBEDDED):
        folder: Path | None = _EMBEDDED_FOLDER / name.removeprefix(_EMBEDDED)
    else:
        folder = Path(name) if Path(name).is_dir() else cached_folder(name)
    if folder is None or not (folder / "config.json").is_file():
        return None
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _language_from_config(name: str) -> LanguageSizes | None:
    config = _config(name)
    try:
        return (
            None
            if config is None
            else LanguageSizes(
                layers=int(config["num_hidden_layers"]),
                width=int(config["hidden_size"]),
                heads=int(config["num_attention_heads"]),
                kv_heads=int(config.get("num_key_value_heads") or config["num_attention_heads"]),
                mlp=int(config["intermediate_size"]),
                vocab=int(config["vocab_size"]),
                tied=bool(config.get("tie_word_embeddings", False)),
                head_width=config.get("head_dim"),
            )
        )
    except (KeyError, TypeError, ValueError):
        return None


def _tower_from_config(name: str) -> TowerSizes | None:
    config = _config(name)
    if config is None:
        return None
    vision = config.get("vision_config", config)
    # A CLIP or SigLIP config.json names only what differs from its class's defaults.
    siglip = "siglip" in str(config.get("model_type", ""))
    defaults = {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072, "image_size": 224}
    try:
        values = {key: int(vision.get(key) or default) for key, default in defaults.items()}
        patch = int(vision.get("patch_size") or (16 if siglip else 32))
    except (AttributeError, TypeError, ValueError):
        return None
    return TowerSizes(
        values["num_hidden_layers"],
        values["hidden_size"],
        values["intermediate_size"],
        values["image_size"],
        patch,
        class_token=not siglip,
    )
