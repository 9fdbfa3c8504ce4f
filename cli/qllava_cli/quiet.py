"""Keeps library chatter out of what a command says; a training run's `log.txt` still gets it."""

from __future__ import annotations

import logging


def quiet_libraries() -> None:
    """Take the libraries' messages, warnings and load bars off the terminal; call it before they load a model."""
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415

    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()
    logging.captureWarnings(capture=True)
    for name in ("transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets", "py.warnings"):
        logger = logging.getLogger(name)
        # A handler that drops: without any, Python prints warnings to stderr itself.
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
