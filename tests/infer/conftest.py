from pathlib import Path

import pytest

from qllava.checkpoint.load import LoadedRun
from qllava.infer.engine import Engine
from tests.infer.tiny_run import load_tiny


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    """A tiny run in fp32."""
    run = load_tiny(tmp_path_factory.mktemp("fp32"))
    run.model.float()
    return run


@pytest.fixture(scope="session")
def engine(loaded: LoadedRun) -> Engine:
    return Engine(loaded, mixed_precision=False)


@pytest.fixture(scope="session")
def nf4_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished NF4 run under runs/."""
    folder = tmp_path_factory.mktemp("nf4")
    load_tiny(folder, quantization="nf4")
    return folder
