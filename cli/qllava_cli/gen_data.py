"""`qllava gen-data`: annotated pictures become training data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from qllava_cli.console import say
from qllava_cli.gen_data_view import picture_progress, summary

_MODEL = "Language-model teachers"
_MONEY = "Money"
_LOAD = "Load"


def gen_data(
    asked: typer.Context,
    images: Annotated[Path, typer.Option("--images", help="Folder of pictures, archive, caption table or hub id.")],
    annotations: Annotated[
        Path | None,
        typer.Option(
            "--annotations", help="Boxes and captions: a COCO folder or a file.", show_default="found by itself"
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            help="Who writes the answers: template, openai (any compatible server), openai-batch.",
            show_default="qllava.yaml's; openai with a key or --base-url; else template",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("data"),
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", metavar="N", help="At most N pictures to train on.", show_default="all; 1000 for a model"
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", help="Chooses wordings, and the pictures within --limit.", show_default="qllava.yaml's, else 42"
        ),
    ] = None,
    questions: Annotated[int, typer.Option("--questions", metavar="N", help="Short questions a picture, at most.")] = 6,
    kinds: Annotated[
        str | None,
        typer.Option(
            "--kinds",
            help="Some of conversation,detail,reasoning.",
            show_default="conversation,detail; all three for a model",
        ),
    ] = None,
    image_position: Annotated[
        str, typer.Option("--image-position", help="Picture before the first question, or random.")
    ] = "first",
    target: Annotated[
        int | None,
        typer.Option(
            "--target", metavar="N", help="At most N caption pairs, concepts balanced.", show_default="one a picture"
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard", metavar="I/N", help="One share of N; join them: qllava data merge.", show_default="everything"
        ),
    ] = None,
    unpack_to: Annotated[
        Path | None,
        typer.Option("--unpack-to", help="Where archives are unpacked.", show_default="images-of-... beside --out"),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="The model's name.", rich_help_panel=_MODEL)] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url",
            help="An OpenAI-compatible server: vLLM, Ollama, llama.cpp, ...",
            show_default="OPENAI_BASE_URL, else OpenAI",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    see: Annotated[
        bool, typer.Option("--see", help="Send the picture too; for models that see.", rich_help_panel=_MODEL)
    ] = False,
    mix: Annotated[
        str | None,
        typer.Option(
            "--mix",
            help="Proportion of samples by kind.",
            show_default="conversation=58,detail=23,reasoning=77",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    context: Annotated[
        str,
        typer.Option("--context", help="What it is told: captions+boxes or captions.", rich_help_panel=_MODEL),
    ] = "captions+boxes",
    answer_format: Annotated[
        str,
        typer.Option("--format", help="json (text where the server refuses it) or text.", rich_help_panel=_MODEL),
    ] = "json",
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="Folder with prompts of your own.", rich_help_panel=_MODEL)
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="Sampling.", rich_help_panel=_MODEL)] = 0.7,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", help="Tokens an answer may have.", rich_help_panel=_MODEL)
    ] = 1024,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print requests, tokens and cost; send nothing.", rich_help_panel=_MONEY)
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask about the cost.", rich_help_panel=_MONEY)] = False,
    max_cost: Annotated[
        float | None,
        typer.Option("--max-cost", metavar="USD", help="Never spend more on this folder.", rich_help_panel=_MONEY),
    ] = None,
    max_requests: Annotated[
        int | None,
        typer.Option("--max-requests", metavar="N", help="Send at most N, repeated ones too.", rich_help_panel=_MONEY),
    ] = None,
    prices: Annotated[
        Path | None, typer.Option("--prices", help="YAML with prices of your own.", rich_help_panel=_MONEY)
    ] = None,
    concurrency: Annotated[
        int, typer.Option("--concurrency", metavar="N", help="Requests at once.", rich_help_panel=_LOAD)
    ] = 16,
    retries: Annotated[
        int, typer.Option("--retries", metavar="N", help="Tries after the first.", rich_help_panel=_LOAD)
    ] = 6,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", help="Seconds an answer may take.", rich_help_panel=_LOAD)
    ] = 600.0,
    poll: Annotated[
        float,
        typer.Option(
            "--poll", metavar="S", help="Seconds between looks at a batch of openai-batch.", rich_help_panel=_LOAD
        ),
    ] = 60.0,
) -> None:
    """Write training data for annotated pictures.

    qllava gen-data --images coco/
    """
    project = _project()
    name, why = _teacher(teacher, project, base_url)
    wanted = None if kinds is None else tuple(kind.strip() for kind in kinds.split(",") if kind.strip())
    place = _choice("--image-position", image_position, ("first", "random"))
    chosen_seed = _project_seed(project) if seed is None else seed
    if name == "template":
        _refuse_model_flags(asked)
        _with_template(
            {
                "images": images,
                "annotations": annotations,
                "out": out,
                "limit": limit,
                "seed": chosen_seed,
                "questions": questions,
                "kinds": wanted or (("conversation", "detail") if kinds is None else ()),
                "image_position": place,
                "shard": shard,
                "target": target,
                "unpack_to": unpack_to,
            },
            why,
        )
        return
    from qllava.datagen.selection import check_settings  # noqa: PLC0415 - --help stays light

    check_settings(name, limit, questions, wanted or ("detail",))
    from qllava.datagen.asking import Policy  # noqa: PLC0415
    from qllava.datagen.mix import DEFAULT_MIX, parse_mix  # noqa: PLC0415
    from qllava.datagen.model_run import DEFAULT_LIMIT, ModelJob  # noqa: PLC0415
    from qllava.datagen.prompting import CONTEXTS, Sampling  # noqa: PLC0415
    from qllava.datagen.teachers.batch import BatchPolicy  # noqa: PLC0415
    from qllava_cli.gen_data_model import with_model  # noqa: PLC0415

    job = ModelJob(
        images=images,
        annotations=annotations,
        out=out,
        teacher=name,
        model=model,
        base_url=base_url,
        see=see,
        limit=DEFAULT_LIMIT if limit is None else limit,
        seed=chosen_seed,
        questions=questions,
        kinds=wanted,
        mix=DEFAULT_MIX if mix is None else parse_mix(mix),
        context=_choice("--context", context, CONTEXTS),
        form=_choice("--format", answer_format, ("json", "text")),
        sampling=Sampling(temperature, max_tokens),
        image_position=place,
        prompts=prompts,
        prices=prices,
        max_cost=max_cost,
        max_requests=max_requests,
        timeout_s=timeout,
        policy=Policy(concurrency, retries),
        batch=BatchPolicy(poll_s=poll, retries=retries),
        shard=shard,
        target=target,
        unpack_to=unpack_to,
    )
    with_model(job, why=why, dry_run=dry_run, yes=yes)


def _teacher(asked: str | None, project: Mapping[str, Any], base_url: str | None) -> tuple[str, str]:
    """(teacher, why this one): the flag, else qllava.yaml, else what the surroundings allow."""
    from qllava.datagen.selection import TEACHERS  # noqa: PLC0415
    from qllava.datagen.teachers.openai_client import is_configured  # noqa: PLC0415
    from qllava.errors import RecipeError  # noqa: PLC0415
    from qllava.recipe import PROJECT_FILE  # noqa: PLC0415

    if asked is not None:
        return asked, "as asked"
    named = project.get("teacher")
    if named is not None:
        if named not in TEACHERS:
            raise RecipeError(f"{PROJECT_FILE}: teacher={named!r} is not known; choose one of: {', '.join(TEACHERS)}")
        return str(named), PROJECT_FILE
    if is_configured(base_url):
        return "openai", "--base-url is given" if base_url else "OPENAI_API_KEY or OPENAI_BASE_URL is set"
    return "template", "needs no key and no model"


def _with_template(settings: dict[str, Any], why: str) -> None:
    from qllava.datagen.pipeline import check_settings, generate  # noqa: PLC0415

    check_settings("template", settings["limit"], settings["questions"], settings["kinds"])
    say("teacher", "template", f"{why}; every answer follows from the annotations", "--teacher")
    say("model", "none")
    with picture_progress() as progress:
        report = generate(**settings, teacher="template", progress=progress)
    summary(report, cost=("0 USD", "no request was made"))


def _refuse_model_flags(asked: typer.Context) -> None:
    """What only a language model can do is refused with the template, never ignored; `--yes` answers what never comes.

    Raises:
        UsageError: names the first such flag on the command line.
    """
    from qllava.errors import UsageError  # noqa: PLC0415

    for parameter in asked.command.params:
        source = asked.get_parameter_source(parameter.name) if parameter.name else None
        of_a_model = getattr(parameter, "rich_help_panel", None) in {_MODEL, _MONEY, _LOAD}
        if of_a_model and parameter.name != "yes" and source is not None and source.name == "COMMANDLINE":
            raise UsageError(
                f"{parameter.opts[0]} is for a language model, and the teacher is template; "
                "add --teacher openai, or leave it out"
            )


def _choice(flag: str, value: str, choices: tuple[str, ...]) -> Any:
    from qllava.errors import UsageError  # noqa: PLC0415

    if value not in choices:
        raise UsageError(f"{flag} {value!r} is not known; choose one of: {', '.join(choices)}")
    return value


def _project() -> Mapping[str, Any]:
    """The contents of qllava.yaml, if there is one."""
    from qllava.recipe import project_overrides  # noqa: PLC0415

    return project_overrides(Path())


def _project_seed(project: Mapping[str, Any]) -> int:
    """The `seed` of qllava.yaml, which seeds every command alike, else 42."""
    from qllava.errors import RecipeError  # noqa: PLC0415
    from qllava.recipe import PROJECT_FILE  # noqa: PLC0415

    seed = project.get("seed", 42)
    if not isinstance(seed, int):
        raise RecipeError(f"{PROJECT_FILE}: seed={seed!r} is not a whole number")
    return seed
