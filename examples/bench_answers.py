"""How much faster a question set is answered in batches than one at a time through the stock `generate`.

    qllava demo
    python examples/bench_answers.py demo/runs/finetune-001 demo/data/heldout.jsonl --questions 300

Both ways answer the same questions with the same model, greedily, in the run's own 4 bits and in full precision.
Seconds are wall clock and processor time of this process; the second is the one to trust on a machine with other work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from qllava.checkpoint.load import LoadedRun, load_run
from qllava.checkpoint.manifest import Run, read_run
from qllava.checkpoint.weights import load_trained
from qllava.data.images import normalize, open_image, pixel_statistics, resolve_image, to_pixels
from qllava.errors import DataError
from qllava.evaluate.ask import ask
from qllava.evaluate.questions import Question, image_root, read_questions
from qllava.infer.engine import Engine
from qllava.infer.vocabulary import stop_ids, suppressed_ids
from qllava.model.build import assemble
from qllava.model.lora import add_lora
from qllava.types import IMAGE, Message, text


@dataclass(frozen=True)
class Timed:
    """Answers by question id, and what they took."""

    answers: dict[str, str]
    wall: float
    processor: float


def main() -> None:
    """Print one row a precision."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--max-new-tokens", type=int, default=8)
    parser.add_argument("--precisions", default="nf4,full")
    arguments = parser.parse_args()
    disable_progress_bar()
    run = read_run(arguments.run)
    # The first ones, not some from everywhere: questions about one picture stand together in a set, and that is used.
    questions = read_questions(arguments.file)[: arguments.questions]
    root = image_root(arguments.file)
    print(
        f"{len(questions)} questions, at most {arguments.max_new_tokens} tokens each, {torch.get_num_threads()} threads"
    )
    print(f"{'precision':10} {'one at a time':>18} {'in batches':>18} {'faster':>8} {'equal':>12}")
    for name in arguments.precisions.split(","):
        loaded = load_run(run, device=_device()) if name == "nf4" else _full_precision(run)
        one = _timed(partial(_one_at_a_time, loaded, questions, root, arguments.max_new_tokens))
        many = _timed(partial(_batched, loaded, questions, root, arguments.max_new_tokens))
        same = [q for q in questions if one.answers[q.id] == many.answers[q.id]]
        print(
            f"{name:10} {one.wall:8.1f} / {one.processor:5.0f} s {many.wall:8.1f} / {many.processor:5.0f} s "
            f"{one.processor / many.processor:7.1f}x {len(same):5} of {len(questions)}"
        )
        for question in questions:
            if one.answers[question.id] != many.answers[question.id]:
                print(f"  {question.id}: {one.answers[question.id]!r} alone, {many.answers[question.id]!r} in a batch")


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _full_precision(run: Run) -> LoadedRun:
    """The run's weights over a base that is not quantised, all in fp32."""
    recipe, loaded = run.recipe, load_run(run, device=_device())
    parts = {**recipe.model.model_dump(), "quantization": "none"}
    base = assemble(**parts, image_token_id=loaded.encoder.image_token_id, device=_device(), seed=recipe.seed)
    lora = recipe.lora
    model = add_lora(base, rank=lora.rank, alpha=lora.scaling_alpha, dropout=lora.dropout, seed=recipe.seed)
    load_trained(model, run.folder)
    model.requires_grad_(False)
    return replace(loaded, model=model.eval().float())


def _timed(answer: Callable[[], dict[str, str]]) -> Timed:
    wall, processor = time.perf_counter(), time.process_time()
    answers = answer()
    return Timed(answers, time.perf_counter() - wall, time.process_time() - processor)


def _batched(loaded: LoadedRun, questions: Sequence[Question], root: Path, tokens: int) -> dict[str, str]:
    return {q.id: answer for q, answer in ask(Engine(loaded), questions, root, max_new_tokens=tokens)}


@torch.no_grad()
def _one_at_a_time(loaded: LoadedRun, questions: Sequence[Question], root: Path, tokens: int) -> dict[str, str]:
    """The stock model's own `generate`, with the same end tokens and the same tokens left out."""
    model: Any = loaded.model
    encoder = loaded.encoder
    ends = stop_ids(model.get_base_model(), encoder)
    left_out = suppressed_ids(model.get_base_model(), encoder, ends).nonzero()[:, 0].tolist()
    answers = {}
    for question in questions:
        if question.image is None:
            raise DataError(f"question {question.id} has no picture; take a set whose questions have one")
        messages: list[Message] = [{"role": "user", "content": [IMAGE, text(question.question)]}]
        ids = torch.tensor([encoder.encode_prompt(messages)], device=loaded.device)
        pixels = to_pixels(loaded.image_processor, open_image(resolve_image(root, question.image)))
        values = normalize(torch.from_numpy(pixels)[None].to(loaded.device), *pixel_statistics(loaded.image_processor))
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=values,
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=sorted(ends),
            suppress_tokens=left_out,
            pad_token_id=encoder.tokenizer.pad_token_id,
        )
        said = encoder.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        answers[question.id] = str(said).strip()
    return answers


if __name__ == "__main__":
    main()
