"""From the answers in the journal to samples and rejections, picture by picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qllava.datagen.checks import Checker
from qllava.datagen.lessons import Kind, Rejection, Turn
from qllava.datagen.money import Usage, usage_of
from qllava.datagen.parse import Parsed, parse_answer
from qllava.datagen.pipeline import Readers
from qllava.datagen.prompting import RequestBuilder
from qllava.datagen.prompts.load import Prompt
from qllava.datagen.question_types import question_type
from qllava.datagen.responses import Journal
from qllava.datagen.sources import Scene
from qllava.datagen.template_teacher import seeded
from qllava.datagen.wording_checks import REFUSAL
from qllava.datagen.writer import Writer
from qllava.errors import DataError


class Judge:
    """Writes what the answers are good for, and why the rest is not.

    `answers` counts answers that were found, `unasked` samples that were neither answered nor given up; `paid` is the
    usage of the answers by (teacher, model).
    """

    def __init__(
        self,
        writer: Writer,
        prompts: Mapping[Kind, Prompt],
        builder: RequestBuilder,
        journal: Journal,
        failed: Mapping[str, str],
        *,
        seed: int,
    ) -> None:
        self.answers = 0
        self.unasked = 0
        self.paid: dict[tuple[str, str], Usage] = {}
        self._writer = writer
        self._prompts = prompts
        self._builder = builder
        self._journal = journal
        self._failed = failed
        self._seed = seed
        self._checker = Checker(seed=seed)

    def write(self, scene: Scene, kinds: Sequence[Kind], readers: Readers) -> None:
        """The samples of one scene, in the order of `kinds`."""
        for kind in kinds:
            try:
                request = self._builder.request(scene, kind)
            except DataError as error:
                self._writer.reject(scene, "picture cannot be read", kind=kind, detail=str(error))
                continue
            if request is None:
                self._writer.reject(scene, "nothing known about the picture", kind=kind)
                continue
            record = self._journal.read(request.key)
            if record is not None:
                self._judge(scene, kind, record, readers)
            elif request.key in self._failed:
                self._writer.reject(scene, "no answer", kind=kind, detail=self._failed[request.key])
            else:
                self.unasked += 1
                self._writer.reject(scene, "not asked yet", kind=kind)

    def _judge(self, scene: Scene, kind: Kind, record: Mapping[str, Any], readers: Readers) -> None:
        self.answers += 1
        usage = usage_of(record["response"])
        who = (str(record["teacher"]), str(record["model"]))
        self.paid[who] = self.paid.get(who, Usage()) + usage
        text, parsed = read_answer(record["response"], kind)
        for rejection in parsed.rejections:
            self._reject(scene, kind, rejection, record, text=text)
        written = list(parsed.turns)
        if not written:
            return
        if kind == "detail":
            rng = seeded(self._seed, scene.id, "detail question")
            written = [Turn(rng.choice(self._prompts[kind].questions), turn.answer) for turn in written]
        turns, found = self._checker.check(scene, readers.facts(scene), kind, written)
        for turn, rejection in zip(written[len(turns) :], found, strict=True):
            self._reject(scene, kind, rejection, record, question=turn.question, answer=turn.answer)
        if not turns:
            return
        origin = {
            "teacher": record["teacher"],
            "model": record["response"].get("model") or record["model"],
            "prompt": record["prompt"],
            "response": record["key"],
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
        }
        self._writer.write_turns(scene, kind, turns, origin)

    def _reject(self, scene: Scene, kind: Kind, rejection: Rejection, record: Mapping[str, Any], **said: str) -> None:
        type_ = {"type": question_type(said["question"])} if kind == "conversation" and "question" in said else {}
        self._writer.reject(
            scene, rejection.reason, kind=kind, detail=rejection.detail, response=record["key"], **type_, **said
        )


def read_answer(response: Mapping[str, Any], kind: Kind) -> tuple[str, Parsed]:
    """(what the model wrote, its turns and what was left out) of a chat completion."""
    choice = response["choices"][0]
    message = choice["message"]
    refusal, content, reason = message.get("refusal"), message.get("content"), choice.get("finish_reason")
    text = content if isinstance(content, str) else ""
    if refusal or reason == "content_filter":
        why = str(refusal) if refusal else "stopped by the provider's content filter"
        return text or str(refusal or ""), Parsed((), (Rejection(REFUSAL, why),))
    return text, parse_answer(text, kind, cut_off=reason == "length")
