"""Runs that are cut off: kill -9, Ctrl-C, a second process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qllava.datagen.lock import LOCK, locked
from qllava.errors import UsageError
from tests.datagen.conftest import TeacherServer, many_pictures
from tests.datagen.test_datagen_model_run import accounted, data_files, job, lines, run, wanted_samples

ROOT = Path(__file__).parents[2]
ENV = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}", "TERM": "dumb", "NO_COLOR": "1"}
KILLS = 20


def test_killed_twenty_times_the_data_is_the_same(tmp_path: Path, server: TeacherServer) -> None:
    url = server.start(delay=0.05, fault_share=0.1, faults=["500", "reset"])
    wanted = job(tmp_path, url, pictures=120)
    run(wanted)
    expected, asked = data_files(wanted.out), sum(server.answered().values())
    killed = tmp_path / "killed"
    command = [sys.executable, str(Path(__file__).with_name("killed_runs.py")), str(wanted.images), str(killed), url]
    done = subprocess.run([*command, str(KILLS)], env=ENV, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    asking, answered, _ = map(int, done.stdout.split())
    assert asking == KILLS
    assert KILLS < answered < asked  # killed in the middle of it, and what was answered was kept
    run(job(tmp_path, url, out=killed))
    assert data_files(killed) == expected
    records = lines(killed / "responses.jsonl")[1:]
    assert len(records) == len({record["key"] for record in records}) == asked
    # Only what was in flight when it was killed may have been asked once more.
    assert sum(server.answered().values()) - 2 * asked <= KILLS * 4


def start_cli(tmp_path: Path, url: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "qllava_cli.main", "gen-data", "--images", "coco", "--base-url", url]
    return subprocess.Popen(
        [*command, "--model", "tiny", "--concurrency", "4", *more],
        cwd=tmp_path, env=ENV, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for_answers(server: TeacherServer, number: int) -> None:
    for _ in range(3000):
        if (server.folder / "log.jsonl").exists() and len(server.log()) >= number:
            return
        time.sleep(0.01)
    raise AssertionError("the run did not start")


def test_ctrl_c_finishes_what_is_in_flight_and_the_next_run_goes_on(tmp_path: Path, server: TeacherServer) -> None:
    url = server.start(delay=0.1)
    many_pictures(tmp_path / "coco", 60)
    process = start_cli(tmp_path, url)
    wait_for_answers(server, 6)
    # A second process is refused while the first one holds the folder.
    second = start_cli(tmp_path, url)
    said = second.communicate(timeout=60)[1]
    assert second.returncode == 2
    assert "error: another gen-data is writing data; wait for it, or choose another --out" in said
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=60)[1]
    assert process.returncode == 130, printed
    assert "interrupted; the same command continues" in printed
    assert "samples were not asked for; the same command goes on" in printed
    answered = sum(server.answered().values())
    records = lines(tmp_path / "data" / "responses.jsonl")[1:]
    assert len(records) == answered  # in flight counts too
    wanted = job(tmp_path, url)
    assert accounted(wanted.out) == wanted_samples(wanted)
    result, _ = run(wanted)
    assert result.asked.answered + answered == len(wanted_samples(wanted)) == sum(server.answered().values())


def test_the_second_ctrl_c_ends_it_at_once(tmp_path: Path, server: TeacherServer) -> None:
    url = server.start(delay=30.0, log_arrivals=True)
    many_pictures(tmp_path / "coco", 8)
    process = start_cli(tmp_path, url)
    assert process.stderr is not None
    wait_for_answers(server, 4)
    process.send_signal(signal.SIGINT)
    assert any("finishing what is in flight" in line for line in iter(process.stderr.readline, ""))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["responses.jsonl"]


def test_the_lock_goes_with_its_holder(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from qllava.datagen.lock import locked\n"
    code += "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "data")], env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UsageError, match="another gen-data is writing"), locked(tmp_path / "data"):
        pass
    holder.kill()
    holder.communicate()
    assert (tmp_path / "data" / LOCK).exists()
    with locked(tmp_path / "data"):
        pass
    assert list((tmp_path / "data").iterdir()) == []
    with locked(tmp_path / "fresh"):
        assert (tmp_path / "fresh" / LOCK).exists()
    assert not (tmp_path / "fresh").exists()
