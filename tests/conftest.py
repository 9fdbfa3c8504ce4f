"""What all tests share: no network, one thread a process, no traces in the home folder."""

import os
import signal
from pathlib import Path

import pytest

# Before anything imports torch or huggingface_hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
# A shell starts background jobs with Ctrl-C ignored, and so would be every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def row_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Indices of data files are kept here for one test."""
    from qllava.data import row_index

    folder = tmp_path_factory.getbasetemp() / "row-cache"
    monkeypatch.setattr(row_index, "cache_root", lambda: folder)
    return folder
