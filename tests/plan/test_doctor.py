"""Everything a run needs of the machine: what is found, and what is advised where it is missing."""

from __future__ import annotations

from collections import namedtuple
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from qllava_cli.main import main

from qllava.plan import doctor
from qllava.plan.device import GIB, DeviceProbe, processor_problem
from qllava.plan.doctor import Finding, examine

CPU = DeviceProbe("cpu", "CPU, 2 cores", 24 * GIB, 20 * GIB)
CARD = DeviceProbe("cuda", "RTX 3090", 24 * GIB, 23 * GIB, (8, 6), 1)


def findings(probe: DeviceProbe, folder: Path, **changes: object) -> dict[str, Finding]:
    values = {"hub_cache": folder / "hub", "embedded": ("qllava", "pip install it"), "nf4": lambda: None, **changes}
    return {finding.name: finding for finding in examine(probe, folder, **values)}  # type: ignore[arg-type]


def test_a_processor_is_enough(tmp_path: Path) -> None:
    found = findings(CPU, tmp_path)
    assert {finding.state for finding in found.values()} == {"ok", "warning"}
    assert found["card"] == Finding("card", "warning", "no NVIDIA card", "the 7B recipes need one; smol does not")
    assert f"torch {version('torch')}" in found["libraries"].found
    assert found["recipe"].found.startswith("smol (auto: ")
    assert findings(CPU, tmp_path, nf4=lambda: "it crashed")["4-bit layers"].state == "problem"


def test_a_good_card(tmp_path: Path) -> None:
    found = findings(CARD, tmp_path)
    assert found["card"].found == "RTX 3090, 24.0 GiB, 23.0 free; 4-bit layers run on it"
    assert found["recipe"].found.startswith("llava-1.5-7b")
    assert "4-bit layers" not in found  # the probe ran them on the card


def test_cards_that_cannot_train(tmp_path: Path) -> None:
    broken = DeviceProbe("broken", "RTX 3090", 0, 0, None, 1, False, "CUDA does not start; update the driver")
    found = findings(broken, tmp_path)
    assert found["card"] == Finding("card", "problem", "RTX 3090", "CUDA does not start; update the driver")
    assert found["recipe"].state == "problem"
    turing = DeviceProbe("cuda", "TITAN RTX", 24 * GIB, 23 * GIB, (7, 5), 1, bf16=False)
    assert findings(turing, tmp_path)["card"].fix == "use an Ampere or newer card"


def test_missing_and_old_libraries_come_with_their_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(name: str) -> str:
        if name == "trl":
            raise PackageNotFoundError(name)
        return "0.1" if name == "peft" else version(name)

    monkeypatch.setattr(doctor, "version", of)
    found = findings(CPU, tmp_path)
    assert found["trl"] == Finding("trl", "problem", "is not installed", "pip install 'trl<2,>=1.16'")
    assert found["peft"].found == "0.1; qllava needs <1,>=0.21"
    assert "peft" not in found["libraries"].found


def test_a_source_folder_that_nobody_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", missing)
    assert findings(CPU, tmp_path)["qllava"].fix == "pip install ."


def test_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(100 * GIB, 90 * GIB, 10 * GIB))
    monkeypatch.setattr(doctor, "system_memory", lambda: (8 * GIB, 1 * GIB))
    assert findings(CPU, tmp_path)["disk here"].state == "ok"
    on_card = findings(CARD, tmp_path)
    assert on_card["disk here"].fix == "a run wants 25 GiB; make room"
    assert on_card["memory"] == Finding(
        "memory", "warning", "1.0 GiB of 8.0 free", "4 GiB are needed; close other programs"
    )


def test_the_embedded_model_and_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-and-long")
    found = findings(CPU, tmp_path, embedded=("no_such_module", "pip install it"))
    assert (found["embedded model"].state, found["embedded model"].fix) == ("warning", "pip install it")
    assert found["OPENAI_API_KEY"].found == "is set"


def test_four_bit_layers_run_on_this_processor() -> None:
    assert processor_problem() is None


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("qllava.plan.device.probe_devices", lambda: CPU)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("nothing stands in the way\n")
    assert "warning card  no NVIDIA card: the 7B recipes need one; smol does not\n" in out
    broken = DeviceProbe("broken", "RTX 3090", 0, 0, None, 1, False, "CUDA does not start")
    monkeypatch.setattr("qllava.plan.device.probe_devices", lambda: broken)
    assert main(["doctor"]) == 1
    assert "PROBLEM card  RTX 3090: CUDA does not start\n" in capsys.readouterr().out
