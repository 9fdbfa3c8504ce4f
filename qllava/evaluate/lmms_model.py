"""The class that lmms-eval instantiates; this module alone imports lmms-eval (the extra `lmms-eval`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmms_eval.api.model import lmms

from qllava.checkpoint.load import find_run, load_run
from qllava.errors import UsageError
from qllava.evaluate.lmms import answer_all, prompt_of, run_folder
from qllava.infer.engine import Engine
from qllava.plan.device import probe_devices, require_usable


class QllavaLmms(lmms):  # type: ignore[misc] # lmms-eval ships no types
    """A run of qllava that answers lmms-eval's `generate_until` tasks, pictures and text, greedily."""

    is_simple = False  # takes messages, not a text with placeholders

    def __init__(
        self,
        run: str | None = None,
        runs: str = "runs",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """Load a run.

        Args:
            run: its folder; the newest finished finetune run under `runs` unless given.
            runs: folder of all runs.
            batch_size: not needed: the engine fills its batches by memory.
            max_batch_size: not needed either.
            device: `cpu` or `cuda`; the card where there is one unless given.

        Raises:
            RunError, ModelError, DeviceError: as `find_run`, `load_run` and `require_usable`.
            UsageError: `run` is no folder.
        """
        super().__init__()
        folder, name = run_folder(run, runs)
        found = find_run(folder, name)
        if device is None:
            probe = probe_devices()
            require_usable(probe)
            device = "cuda" if probe.kind == "cuda" else "cpu"
        self._engine = Engine(load_run(found, device="cuda" if device.startswith("cuda") else device))
        self.device = device

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Answers in the order of the requests."""
        prompts = [self._prompt(request.args) for request in requests]
        answers = answer_all(self._engine, prompts)
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, answer)
        return answers

    def _prompt(self, arguments: tuple[Any, ...]) -> tuple[Any, Mapping[str, Any]]:
        _, to_messages, settings, document, task, split = arguments
        messages = to_messages(self.task_dict[task][split][document])
        return prompt_of(messages, f"task {task}, document {document}"), settings or {}

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Not offered.

        Raises:
            UsageError: always.
        """
        raise UsageError("qllava answers generate_until tasks; choose the generative version of this task")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Not offered.

        Raises:
            UsageError: always.
        """
        raise UsageError("qllava answers generate_until tasks of one round; choose another task")
