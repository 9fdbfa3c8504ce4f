"""lmms-eval's tasks on a run: `python -m lmms_eval --model qllava --model_args run=runs/finetune-001 --tasks mme`.

lmms-eval finds `manifest` by the entry point `lmms_eval.models`; the class itself is in `lmms_model`, which alone
imports it. Here is what needs no lmms-eval: from its messages to our prompts, and what its settings mean to us.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from qllava.data.images import open_image
from qllava.errors import DataError, UsageError
from qllava.infer.engine import Engine, Prompt
from qllava.types import IMAGE, Message, Part, Role, text

MODEL_ID = "qllava"
CLASS = "qllava.evaluate.lmms_model.QllavaLmms"
MAX_NEW_TOKENS = 512
_ROLES: tuple[Role, ...] = ("system", "user", "assistant")
# What a task gets as its `until` when it names none; an answer of two paragraphs would be cut by it.
_NO_STOP = "\n\n"
# Prompts whose pictures are in memory together.
_AT_ONCE = 64
_GREEDY: Mapping[str, tuple[Any, ...]] = {
    "temperature": (None, 0, 0.0),
    "top_p": (None, 1, 1.0, 0),
    "num_beams": (None, 1),
    "do_sample": (None, False),
}

_logger = logging.getLogger(__name__)


def manifest() -> Any:
    """What lmms-eval registers (`lmms_eval.models.registry_v2.ModelManifest`)."""
    from lmms_eval.models.registry_v2 import ModelManifest  # noqa: PLC0415 - an extra; only lmms-eval calls this

    return ModelManifest(model_id=MODEL_ID, chat_class_path=CLASS)


def prompt_of(messages: Iterable[Mapping[str, Any]], where: str) -> Prompt:
    """One of lmms-eval's conversations as our engine takes it.

    Args:
        messages: `{role, content: [{type: text, text} | {type: image, url: a PIL picture or a path}]}`.
        where: names the document in errors.

    Raises:
        DataError: a video or a sound, which the model knows nothing of, or an unknown role.
    """
    turns: list[Message] = []
    pictures: list[Image.Image] = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role not in _ROLES:
            raise DataError(f"{where}: role {role!r} is unknown; qllava takes {', '.join(_ROLES)}")
        parts: list[Part] = []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "text":
                parts.append(text(part["text"]))
            elif part["type"] == "image":
                parts.append(IMAGE)
                pictures.append(_picture(part["url"]))
            else:
                raise DataError(f"{where}: a {part['type']} cannot be shown to this model; choose tasks of pictures")
        turns.append({"role": role, "content": parts})
    return turns, pictures


def answer_all(engine: Engine, prompts: Sequence[tuple[Prompt, Mapping[str, Any]]]) -> list[str]:
    """Answers in order; each prompt comes with its task's `generation_kwargs`.

    Only `max_new_tokens` and `until` are heeded: answers are greedy, and a task that asks for anything else is told so.
    """
    answers = [""] * len(prompts)
    by_length: dict[int, list[int]] = {}
    for index, (_, settings) in enumerate(prompts):
        by_length.setdefault(_max_new_tokens(settings), []).append(index)
    for setting in sorted({_ignored(settings) for _, settings in prompts} - {""}):
        _logger.warning("qllava answers greedily; the task's %s is not heeded", setting)
    for length, indices in by_length.items():
        for start in range(0, len(indices), _AT_ONCE):
            chunk = indices[start : start + _AT_ONCE]
            said = engine.answer_batch([prompts[i][0] for i in chunk], max_new_tokens=length)
            for index, answer in zip(chunk, said, strict=True):
                answers[index] = cut_at(answer, prompts[index][1].get("until"))
    return answers


def cut_at(answer: str, until: str | Sequence[str] | None) -> str:
    """The answer before the first text of `until`; the empty line that lmms-eval fills in is none."""
    stops = [until] if isinstance(until, str) else list(until or ())
    places = [place for stop in stops if stop and stop != _NO_STOP and (place := answer.find(stop)) >= 0]
    return answer[: min(places)].rstrip() if places else answer


def run_folder(run: str | None, runs: str) -> tuple[Path, Path | None]:
    """(folder of runs, the run named) from `--model_args`.

    Raises:
        UsageError: a run that is no folder.
    """
    if run is not None and not Path(run).is_dir():
        raise UsageError(f"--model_args run={run} is not a folder; name a run, for example run=runs/finetune-001")
    return Path(runs), None if run is None else Path(run)


def _picture(given: object) -> Image.Image:
    if isinstance(given, Image.Image):
        return given.convert("RGB")
    return open_image(Path(str(given)))


def _max_new_tokens(settings: Mapping[str, Any]) -> int:
    wanted = settings.get("max_new_tokens", MAX_NEW_TOKENS)
    if not isinstance(wanted, int) or wanted < 1:
        raise UsageError(f"max_new_tokens={wanted!r} cannot work; give 1 or more in the task or --gen_kwargs")
    return wanted


def _ignored(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{k}={settings[k]!r}" for k, greedy in _GREEDY.items() if k in settings and settings[k] not in greedy
    )
