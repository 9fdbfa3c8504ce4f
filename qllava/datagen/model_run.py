"""A data folder written by a language model: read, ask for what is missing, then write everything in picture order.

The data files follow from the annotations, the settings and `responses.jsonl` alone. In which order answers came, and
how often the run was cut off, leaves no trace in them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qllava.datagen.asking import Asked, Inquiry, Stop, View, ask_all
from qllava.datagen.card import CARD, Report, card_json, image_root, readme
from qllava.datagen.intake import take_in
from qllava.datagen.judging import Judge
from qllava.datagen.lessons import Kind
from qllava.datagen.lock import locked
from qllava.datagen.mix import kinds_of, restrict
from qllava.datagen.model_job import DEFAULT_LIMIT, Estimate, ModelJob, check_numbers
from qllava.datagen.money import Budget, Price, Usage, load_prices, price_of
from qllava.datagen.pipeline import Readers
from qllava.datagen.prompting import Request, RequestBuilder
from qllava.datagen.prompts.load import load_prompts
from qllava.datagen.responses import RESPONSES, Journal
from qllava.datagen.selection import check_settings, refuse_foreign, with_usable_captions
from qllava.datagen.store import Folder
from qllava.datagen.teachers.batch import ask_batches
from qllava.datagen.teachers.batch_state import load_state
from qllava.datagen.teachers.dialect import first_dialect
from qllava.datagen.teachers.openai_client import DEFAULT_MODEL, Teacher, find_endpoint
from qllava.datagen.template_teacher import teach
from qllava.datagen.writer import Writer
from qllava.errors import DataError, UsageError

__all__ = ["DEFAULT_LIMIT", "Estimate", "ModelJob", "ModelRun", "Result"]


@dataclass(frozen=True, slots=True)
class Result:
    """`report` is None where nothing was written, since no answer came; `asked.error` says why the run ended early."""

    report: Report | None
    asked: Asked
    budget: Budget


class ModelRun:
    """One run, its sources and prompts read and its settings checked; then `estimate` and `run`.

    Raises:
        UsageError: a setting that cannot work, a folder that is not there, a key that is not set.
        DataError: annotations that cannot be read, or nothing to teach from.
    """

    def __init__(self, job: ModelJob) -> None:
        kinds = check_settings(
            job.teacher, job.limit, job.questions, tuple(job.mix) if job.kinds is None else job.kinds
        )
        check_numbers(job)
        self.job = job
        self.endpoint = find_endpoint(job.base_url)
        if job.model is None and not self.endpoint.official:
            raise UsageError(f"--base-url {self.endpoint.name} needs --model NAME, as that server calls it")
        self.model = job.model or DEFAULT_MODEL
        self._prices = load_prices(job.prices)
        self.price: Price | None = price_of(self.model, self._prices)
        if self.price is None and job.max_cost is not None:
            raise UsageError(
                f"--max-cost {job.max_cost:g} cannot be kept: {self.model} has no known price; "
                "give one with --prices FILE, or use --max-requests"
            )
        self.mix = restrict(job.mix, kinds)
        self._prompts = load_prompts(job.prompts, kinds)
        refuse_foreign(job.out, job.teacher, job.shard)
        self.intake = take_in(
            job.images,
            job.annotations,
            job.out,
            limit=job.limit,
            seed=job.seed,
            shard=job.shard,
            target=job.target,
            unpack_to=job.unpack_to,
        )
        self.source, self.train = self.intake.source, self.intake.train
        if not job.see and not self.source.annotated:
            raise UsageError(
                f"{job.images} has no annotations, and a teacher without --see knows a picture from nothing else; "
                "add --see (and a model that takes pictures) or --annotations PATH"
            )
        self.builder = RequestBuilder(
            self._prompts,
            model=self.model,
            sampling=job.sampling,
            form=job.form,
            context=job.context,
            see=job.see,
            image_root=self.source.root,
            teacher=job.teacher,
        )

    @property
    def batched(self) -> bool:
        """Whether the Batch API is used."""
        return self.job.teacher == "openai-batch"

    def estimate(self) -> Estimate:
        """Requests, tokens and cost; sends nothing and writes nothing."""
        answered = _answered(self.job.out / RESPONSES)
        requests = found = 0
        missing = everything = Usage()
        for request in self._requests():
            prompt, answer = self.builder.estimated_tokens(request)
            pictures = int(request.file is not None)
            usage = Usage(prompt + pictures * (self.price.image_tokens if self.price else 0), 0, answer)
            everything += usage
            if request.key in answered:
                found += 1
            else:
                requests += 1
                missing += usage
        scale = self.intake.of / len(self.train)
        cost = None if self.price is None else self.price.cost(missing, batch=self.batched)
        whole = None if self.price is None else self.price.cost(everything, batch=self.batched) * scale
        return Estimate(
            pictures=len(self.train),
            requests=requests,
            found=found,
            prompt_tokens=missing.prompt,
            answer_tokens=missing.completion,
            cost=cost,
            whole_pictures=self.intake.of,
            whole_requests=round((requests + found) * scale),
            whole_cost=whole,
        )

    def run(self, view: View, note: Callable[[str], None]) -> Result:
        """Ask for what is missing and write the data folder.

        Args:
            view: told after each answer and failure.
            note: gets what a person should know, a line at a time.

        Raises:
            UsageError: another process writes the same folder.
            DataError: answers came, and not one of them can be used.
            KeyboardInterrupt: the second Ctrl-C; what was answered is kept.
        """
        job = self.job
        with locked(job.out), Journal(job.out / RESPONSES) as journal:
            if journal.recovered:
                note(f"{RESPONSES}: cut off {journal.recovered:,} bytes that a crash had left unfinished")
            if not self.batched and (waiting := load_state(job.out).open):
                raise UsageError(
                    f"{len(waiting)} batches of {job.out} are not collected yet, and asking now would pay twice; "
                    "repeat the command with --teacher openai-batch first"
                )
            budget = Budget(
                self.price,
                max_cost=job.max_cost,
                max_requests=job.max_requests,
                spent=self._known_cost(journal.paid),
                batch=self.batched,
            )
            try:
                asked = asyncio.run(self._ask(journal, budget, view, note))
            except asyncio.CancelledError:
                raise KeyboardInterrupt from None
            if not len(journal):
                return Result(None, asked, budget)
            return Result(self._write(journal, asked), asked, budget)

    async def _ask(self, journal: Journal, budget: Budget, view: View, note: Callable[[str], None]) -> Asked:
        job = self.job
        stop = Stop()
        dialect = first_dialect(job.form, official=self.endpoint.official)
        async with Teacher(self.endpoint, dialect, timeout_s=job.timeout_s, note=note) as teacher:
            with stop.on_interrupt(note):
                inquiry = Inquiry(self.builder, teacher, journal, budget, stop, view)
                if self.batched:
                    return await ask_batches(self._requests, inquiry, job.batch, note=note, out=job.out)
                return await ask_all(self._requests(), inquiry, job.policy)

    def _requests(self) -> Iterator[Request]:
        """Everything that is wanted, in the order of pictures; what cannot be asked is listed when writing."""
        for scene in self.train:
            usable = with_usable_captions(scene)
            for kind in kinds_of(scene.id, self.mix, self.job.seed):
                try:
                    request = self.builder.request(usable, kind)
                except DataError:
                    continue
                if request is not None:
                    yield request

    def _write(self, journal: Journal, asked: Asked) -> Report:
        job = self.job
        with Folder(job.out) as folder:
            writer = Writer(folder, self.source, job.seed, job.image_position)
            judge = Judge(writer, self._prompts, self.builder, journal, asked.failed, seed=job.seed)
            readers = Readers()
            for scene in self.train:
                usable = replace(scene, captions=writer.usable_captions(scene))
                writer.write_caption(usable, self.intake.paired)
                judge.write(usable, kinds_of(scene.id, self.mix, job.seed), readers)
            for scene in self.intake.held_out:
                usable = replace(scene, captions=writer.usable_captions(scene))
                kinds: Sequence[Kind] = ("conversation",)
                lessons = teach(scene.id, readers.facts(usable), self.intake.priors, job.seed, job.questions, kinds)
                writer.write_held_out(scene, lessons)
            report = Report(
                out=job.out,
                source=self.source.kind,
                teacher=job.teacher,
                model=self.model,
                seed=job.seed,
                questions=job.questions,
                kinds=tuple(self.mix),
                pictures=len(self.train),
                held_out=len(self.intake.held_out),
                held_out_rule=self.source.held_out_rule,
                held_out_questions=writer.files["heldout.jsonl"].entries,
                missing=len(self.source.missing),
                absent_splits=self.source.absent_splits,
                captions=writer.files["align.json"].entries,
                by_kind={kind: writer.kinds[kind] for kind in self.mix},
                by_type=dict(sorted(writer.types.items())),
                rejected=dict(sorted(writer.rejected.items())),
                files=folder.finish(),
                endpoint=self.endpoint.name,
                prompts={kind: self.builder.prompt_hashes[kind] for kind in self.mix},
                mix=self.mix,
                answers=judge.answers,
                usage=sum(judge.paid.values(), Usage()),
                cost_usd=self._cost(judge.paid),
                unasked=judge.unasked,
                target=job.target,
                shard=job.shard,
                unpacked=self.intake.unpacked,
            )
            report = replace(report, files={**report.files, "README.md": folder.text("README.md", readme(report))})
            folder.text(CARD, card_json(report, image_root(self.source.root, job.out)))
            folder.commit()
        if judge.answers and not sum(report.by_kind.values()) and not asked.stopped:
            reason = max(report.rejected, key=lambda name: report.rejected[name], default="no answer")
            raise DataError(
                f"none of the {judge.answers:,} answers of {self.model} can be used (most often: {reason}); "
                f"read {job.out / 'rejected.jsonl'} and choose another --model"
            )
        return report

    def _known_cost(self, paid: Mapping[tuple[str, str], Usage]) -> float:
        """USD for those answers whose model has a known price."""
        return sum(self._cost({who: usage}) or 0.0 for who, usage in paid.items())

    def _cost(self, paid: Mapping[tuple[str, str], Usage]) -> float | None:
        """USD for answers by (teacher, model); None where one of the models has no known price."""
        total = 0.0
        for (teacher, model), usage in paid.items():
            price = price_of(model, self._prices)
            if price is None:
                return None
            total += price.cost(usage, batch=teacher == "openai-batch")
        return total if paid or self.price is not None else None


class _Nothing:
    def __contains__(self, key: object) -> bool:
        return False


def _answered(path: Path) -> Journal | _Nothing:
    """The keys of a journal, read without locking, repairing or making it."""
    return Journal.peek(path) if path.exists() else _Nothing()
