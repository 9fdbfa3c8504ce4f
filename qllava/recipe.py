"""The recipe: every setting of a training run, as one frozen, validated tree.

A recipe is a YAML file under `recipes/` (or a path). Values come, later over earlier, from the file named by
`extends`, the recipe, `qllava.yaml` in the working directory, `--set a.b=c`, and flags.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from qllava.errors import RecipeError
from qllava.types import Stage

PROJECT_FILE = "qllava.yaml"
PROJECT_KEYS = ("recipe", "teacher")
"""What qllava.yaml may say besides recipe settings: which recipe, and who writes gen-data's answers."""
AUTO = "auto"

_EXPONENT = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)[eE][+-]?\d+")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelSettings(_Frozen):
    """What is assembled: language model + vision tower + projector."""

    language_model: str = Field(description="hub id, folder, GGUF file, or embedded:smollm2-135m")
    vision_tower: str = Field(description="hub id or folder of a CLIP or SigLIP model, or embedded:scene-clip")
    projector: Literal["linear", "mlp2x_gelu"] = "mlp2x_gelu"
    feature_layer: int = Field(-2, description="hidden state of the tower to use; the paper ablates -1 and -2")
    patches: Literal["default", "full"] = Field("default", description="default drops CLIP's CLS token, full keeps all")
    quantization: Literal["nf4", "none"] = "nf4"


class LoraSettings(_Frozen):
    """LoRA on the language model's linears."""

    rank: int = Field(64, ge=1)
    alpha: int | None = Field(None, ge=1, description="2 x rank unless given")
    dropout: float = Field(0.0, ge=0.0, lt=1.0)

    @property
    def scaling_alpha(self) -> int:
        """The alpha in force."""
        return 2 * self.rank if self.alpha is None else self.alpha


class StageSettings(_Frozen):
    """Optimisation of one stage; the batch is global, counted in samples."""

    learning_rate: float = Field(gt=0.0)
    projector_learning_rate: float | None = Field(None, gt=0.0, description="the stage's learning_rate unless given")
    batch_size: int = Field(gt=0)
    epochs: float = Field(1.0, gt=0.0)
    max_steps: int | None = Field(None, gt=0)
    warmup_ratio: float = Field(0.03, ge=0.0, lt=1.0)
    weight_decay: float = Field(0.0, ge=0.0)
    scheduler: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    max_grad_norm: float = Field(1.0, gt=0.0)
    save_steps: int = Field(500, gt=0)
    keep_checkpoints: int = Field(2, gt=0)


class DataSettings(_Frozen):
    """How samples become token sequences."""

    max_length: int = Field(2048, gt=0)
    image_aspect: Literal["pad", "crop", "squash"] = "pad"
    workers: int | None = Field(None, ge=0, description="data workers; chosen from the cores unless given")
    pack: bool = Field(True, description="share image prefixes and fill sequences; false is one sample a sequence")


class TrainSettings(_Frozen):
    """How a step is computed; the numbers learnt do not depend on it, but for rounding and 8-bit optimizer states."""

    optimizer: Literal["auto", "adamw", "paged_adamw_8bit"] = Field(
        "auto", description="auto is adamw, or on a card where its states do not fit, paged_adamw_8bit"
    )
    attention: Literal["auto", "sdpa", "flex", "segments"] = Field(
        "auto", description="kernel of the language model; auto takes flex on a card where it is measured to be faster"
    )
    compile: bool = Field(False, description="fuse elementwise operations of the decoder layers on a card")


class Recipe(_Frozen):
    """A whole training run. `template` names a chat template; `align_template` what stage 1 shows the model."""

    name: str
    description: str = ""
    model: ModelSettings
    template: str
    align_template: Literal["plain", "chat"] = "plain"
    align_start: Literal["random", "captions"] = Field(
        "random", description="the new projector: drawn at random, or fitted to the captions before the first step"
    )
    data: DataSettings = DataSettings()
    align: StageSettings = StageSettings(learning_rate=1e-3, batch_size=256)
    finetune: StageSettings = StageSettings(learning_rate=2e-4, projector_learning_rate=2e-5, batch_size=128)
    lora: LoraSettings = LoraSettings()
    train: TrainSettings = TrainSettings()
    seed: int = 42

    def stage(self, stage: Stage) -> StageSettings:
        """The settings of one stage."""
        return self.align if stage == "align" else self.finetune

    def to_yaml(self) -> str:
        """The resolved recipe as YAML that loads back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def recipes_dir() -> Path:
    """Folder of the shipped recipes: beside the package in a checkout, inside it once installed."""
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the shipped recipes, sorted; files starting with `_` are bases, not recipes."""
    return sorted(path.stem for path in recipes_dir().glob("*.yaml") if not path.stem.startswith("_"))


def recipe_path(name: str) -> Path:
    """The file behind a recipe name or path.

    Raises:
        RecipeError: no such recipe; names the closest one.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise RecipeError(f"recipe file {name} does not exist; `qllava recipes list` shows the shipped ones")
        return path
    path = recipes_dir() / f"{name}.yaml"
    if not path.is_file() or "/" in name:
        close = difflib.get_close_matches(name, recipe_names(), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise RecipeError(
            f"unknown recipe {name!r}; {hint}`qllava recipes list` shows all: {', '.join(recipe_names())}"
        )
    return path


def load_recipe(name: str, overrides: Sequence[Mapping[str, Any]] = ()) -> Recipe:
    """Read a recipe by name or path and lay `overrides` (nested mappings, later wins) over it.

    Raises:
        RecipeError: unknown name, unreadable YAML, unknown key (with the closest known one), or a value out of range.
    """
    values = read_recipe(name)
    for override in overrides:
        values = merge(values, override)
    return parse_recipe(values, origin=f"recipe {name}")


def read_recipe(name: str) -> dict[str, Any]:
    """The values of a recipe by name or path, its parents merged in, not yet validated.

    Raises:
        RecipeError: unknown name, unreadable YAML, or `extends` that goes in a circle.
    """
    return _read_with_parents(recipe_path(name), seen=())


def parse_recipe(values: Mapping[str, Any], origin: str) -> Recipe:
    """Validate a nested mapping; `origin` opens the error (`recipe smol`, `qllava.yaml`, `--set`).

    Raises:
        RecipeError: one line naming the key, the value and the fix.
    """
    try:
        return Recipe.model_validate(dict(values))
    except ValidationError as error:
        raise RecipeError(f"{origin}: {_explain(error)}") from None


def project_overrides(directory: Path) -> dict[str, Any]:
    """The contents of `qllava.yaml` in a directory, or nothing; those of `PROJECT_KEYS` are no recipe settings.

    Raises:
        RecipeError: it is there and is not a YAML mapping.
    """
    path = directory / PROJECT_FILE
    return _read_mapping(path) if path.is_file() else {}


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """`["lora.rank=16"]` -> `{"lora": {"rank": 16}}`; values are YAML.

    Raises:
        RecipeError: an assignment without `=`, or with an unreadable value.
    """
    result: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, raw = assignment.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"--set {assignment!r} is not KEY=VALUE; write for example --set lora.rank=16")
        try:
            value: Any = _scalar(yaml.safe_load(raw))
        except yaml.YAMLError:
            raise RecipeError(f"--set {assignment!r}: the value is not readable as YAML; quote it") from None
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        result = merge(result, value)
    return result


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on top, mappings merged key by key; neither is changed."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def _read_with_parents(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise RecipeError(f"recipe {path.stem}: `extends` goes in a circle; remove one of them")
    values = _read_mapping(path)
    parent = values.pop("extends", None)
    values.setdefault("name", path.stem)
    if parent is None:
        return values
    beside = path.parent / (str(parent) if str(parent).endswith((".yaml", ".yml")) else f"{parent}.yaml")
    # A file that extends the shipped recipe of its own name means that one, not itself.
    own = beside.is_file() and beside.resolve() != path.resolve()
    parent_path = beside if own else recipe_path(str(parent))
    return merge(_read_with_parents(parent_path, (*seen, path.resolve())), values)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where is not None else ""
        raise RecipeError(f"{path}{line} is not readable YAML; compare with `qllava recipes show smol`") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"{path} holds {type(values).__name__}, not `key: value` lines")
    return {key: _scalar(value) for key, value in values.items()}


def _scalar(value: Any) -> Any:
    """YAML 1.1 reads `1e-3` as a string; every recipe writes learning rates like that."""
    if isinstance(value, dict):
        return {key: _scalar(inner) for key, inner in value.items()}
    if isinstance(value, str):
        return float(value) if _EXPONENT.fullmatch(value) else value
    return value


def _explain(error: ValidationError) -> str:
    """The first problem as one line; an unknown key gets the closest known one."""
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _known_keys()
        close = difflib.get_close_matches(key, known, n=1) or difflib.get_close_matches(
            key.rsplit(".", 1)[-1], [name.rsplit(".", 1)[-1] for name in known], n=1
        )
        hint = f"; did you mean {close[0]}?" if close else "; `qllava recipes show smol` lists the keys"
        return f"unknown key {key!r}{hint}"
    if problem["type"] == "missing":
        return f"key {key!r} is missing; add it or `extends: llava-1.5-7b`"
    return f"{key}={problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _known_keys() -> list[str]:
    def walk(model: type[BaseModel], prefix: str) -> list[str]:
        keys: list[str] = []
        for name, field in model.model_fields.items():
            keys.append(prefix + name)
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                keys.extend(walk(inner, f"{prefix}{name}."))
        return keys

    return walk(Recipe, "")
