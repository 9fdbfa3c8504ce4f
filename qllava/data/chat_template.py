"""Chat templates: the one truth of how a conversation becomes text, in training, chat, evaluation and the export.

A template is Jinja as transformers renders it (`apply_chat_template`), with the trained text of every assistant turn
between `{% generation %}` and `{% endgeneration %}`. No torch here.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from qllava.errors import DataError, RecipeError
from qllava.recipe import recipes_dir
from qllava.types import Message, Stage, text

IMAGE_TOKEN = "<image>"  # noqa: S105 - a token of text, not a secret
PLAIN = "plain"

Span = tuple[int, int]

# transformers compiles a template once and keeps the spans of a rendering on it, so a second thread (serve) must wait.
_RENDERING = threading.Lock()


@dataclass(frozen=True)
class ChatTemplate:
    """A named template.

    Attributes:
        name: the shipped name, or the stem of the file.
        source: Jinja.
        stop: texts that end an assistant turn, e.g. `("<|im_end|>",)`; read off the template itself.
    """

    name: str
    source: str
    stop: tuple[str, ...]

    def render(
        self,
        messages: Sequence[Message],
        special_tokens: Mapping[str, str] | None = None,
        *,
        add_generation_prompt: bool = False,
    ) -> tuple[str, list[Span]]:
        """The conversation as text, and where its trained stretches lie.

        Args:
            messages: complete turns.
            special_tokens: the tokenizer's own names for them, e.g. `{"bos_token": "<s>"}`.
            add_generation_prompt: end with what stands before an answer.

        Returns:
            The text and (start, end) character spans, one for each assistant turn.

        Raises:
            DataError: the template refuses these messages.
        """
        variables: dict[str, Any] = {**(special_tokens or {})}
        if add_generation_prompt:
            variables["add_generation_prompt"] = True
        return _render(self.name, self.source, messages, variables)


def load_chat_template(name: str) -> ChatTemplate:
    """A shipped template by name, or any by the path of its .jinja file.

    Raises:
        RecipeError: there is none of that name (names the closest), it is no Jinja, or it marks no assistant turn.
    """
    path = Path(name) if name.endswith(".jinja") else _templates_dir() / f"{name}.jinja"
    if not path.is_file() or (not name.endswith(".jinja") and "/" in name):
        close = difflib.get_close_matches(name, template_names(), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise RecipeError(f"unknown chat template {name!r}; {hint}there are {', '.join(template_names())}")
    return marked_template(path.stem, path.read_text(encoding="utf-8"))


def marked_template(name: str, source: str) -> ChatTemplate:
    """A template from its Jinja, which marks the trained text.

    Raises:
        RecipeError: it is no Jinja, or marks no assistant turn.
    """
    return ChatTemplate(name=name, source=source, stop=_find_stop(name, source))


def template_names() -> list[str]:
    """Names of the shipped templates, sorted."""
    return sorted(path.stem for path in _templates_dir().glob("*.jinja"))


def stage_template(template: str, align_template: str, stage: Stage) -> str:
    """Name of the template a stage trains with: `plain` in stage 1 if the recipe says so, else the recipe's own."""
    return PLAIN if stage == "align" and align_template == PLAIN else template


def _templates_dir() -> Path:
    return recipes_dir() / "templates"


def _find_stop(name: str, source: str) -> tuple[str, ...]:
    """What the template trains after an answer's own text: read off a rendered probe, so that nobody declares it."""
    from jinja2 import TemplateSyntaxError  # noqa: PLC0415

    answer = "ANSWER"
    probe: list[Message] = [
        {"role": "user", "content": [{"type": "image"}, text("QUESTION")]},
        {"role": "assistant", "content": [text(answer)]},
    ]
    try:
        rendered, spans = _render(name, source, probe, {"bos_token": ""})
    except TemplateSyntaxError as error:
        raise RecipeError(f"chat template {name}, line {error.lineno}: {error.message}; correct the Jinja") from None
    trained = [rendered[start:end] for start, end in spans]
    if len(trained) != 1 or answer not in trained[0]:
        raise RecipeError(
            f"chat template {name} does not mark what is trained; "
            "put each assistant turn between {% generation %} and {% endgeneration %}"
        )
    end = trained[0].partition(answer)[2]
    if not end:
        raise RecipeError(
            f"chat template {name} trains no end of an answer, so generation would never stop; "
            "put the end token before {% endgeneration %}"
        )
    return (end.strip() or end,)


def _render(
    name: str, source: str, messages: Sequence[Message], variables: Mapping[str, Any]
) -> tuple[str, list[Span]]:
    # Imported here: half a second that listing templates does not need.
    from jinja2 import TemplateError, TemplateSyntaxError  # noqa: PLC0415
    from transformers.utils.chat_template_utils import render_jinja_template  # noqa: PLC0415

    try:
        with _RENDERING:
            texts, spans = cast(
                tuple[list[str], list[list[Span]]],  # its own annotation says str
                render_jinja_template(
                    conversations=[[dict(message) for message in messages]],
                    chat_template=source,
                    return_assistant_tokens_mask="endgeneration" in source,
                    **dict(variables),
                ),
            )
    except TemplateSyntaxError:
        raise
    except TemplateError as error:
        raise DataError(f"chat template {name} cannot render this conversation: {error}") from None
    return texts[0], [(int(start), int(end)) for start, end in spans[0]] if spans else []
