"""One process at a time: who holds a lock is named, and a lock whose holder is gone holds nobody up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qllava.lock import HeldError, hold

HOLDER = "import sys; from pathlib import Path; from qllava.lock import hold\n"
HOLDER += "with hold(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


def start_holder(path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_the_holder_is_named_and_a_dead_one_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / ".run.lock"
    holder = start_holder(path)
    with pytest.raises(HeldError) as caught, hold(path):
        pass
    assert caught.value.owner is not None
    assert caught.value.owner.pid == holder.pid
    assert f"process {holder.pid} of " in str(caught.value)
    holder.kill()
    holder.communicate()
    assert path.exists()
    with hold(path) as left_by:
        assert left_by is not None
        assert left_by.pid == holder.pid
        with pytest.raises(HeldError, match=f"process {os.getpid()} "), hold(path):
            pass
    assert not path.exists()


def test_one_given_back_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / ".run.lock"
    holder = start_holder(path)
    holder.communicate(b"")
    assert holder.returncode == 0
    assert not path.exists()
    with hold(path) as left_by:
        assert left_by is None


def test_a_forked_child_does_not_keep_it(tmp_path: Path) -> None:
    """As a data worker that outlives its killed parent for a while."""
    path = tmp_path / ".run.lock"
    with hold(path):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
    try:
        with hold(path) as left_by:
            assert left_by is None
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_lock_file_of_another_shape_is_taken(tmp_path: Path) -> None:
    path = tmp_path / ".run.lock"
    path.write_text("not json")
    with hold(path) as left_by:
        assert left_by is None
