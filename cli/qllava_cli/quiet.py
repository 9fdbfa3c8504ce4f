"""Keeps library chatter out of what a command says."""

from __future__ import annotations

import logging
import warnings


def quiet_libraries() -> None:
    """Silence load bars and notices of the libraries; call it before they load a model."""
    for name in ("bitsandbytes", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    # Deprecations inside the libraries are for their authors; tests run with warnings as errors.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft|torch)\..*")
