from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qllava.checkpoint.load import load_run
from qllava.checkpoint.manifest import read_run
from qllava.infer.engine import Engine
from tests.infer.tiny_run import picture
from tests.serve.hall import Hall
from tests.serve.server import LONG_CONTEXT, Running, make_run, running


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run under runs/."""
    root = tmp_path_factory.mktemp("serve")
    make_run(root)
    return root


@pytest.fixture(scope="session")
def long_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of a model that can talk for long."""
    root = tmp_path_factory.mktemp("serve-long")
    make_run(root, context=LONG_CONTEXT)
    return root


@pytest.fixture(scope="session")
def engine(folder: Path) -> Engine:
    """The run of the exact server."""
    loaded = load_run(read_run(folder / "runs" / "finetune-001"), device="cpu")
    loaded.model.float()
    return Engine(loaded, mixed_precision=False)


@pytest.fixture(scope="session")
def server(folder: Path) -> Iterator[Running]:
    """A server in fp32 that takes 250 requests at a time, with a page that offers one example."""
    picture(90).save(folder / "example.png")
    arguments = ["runs/finetune-001", "10", "240", str(folder / "example.png")]
    with running(folder, arguments, module="tests.serve.exact_server") as found:
        yield found


@pytest.fixture
def hall(engine: Engine) -> Iterator[Callable[..., Hall]]:
    halls: list[Hall] = []

    def build(**settings: float) -> Hall:
        halls.append(Hall(engine, **settings))  # type: ignore[arg-type]
        return halls[-1]

    yield build
    for found in halls:
        found.desk.close()
        assert found.desk.join(60)
        found.readers.shutdown()
