import re
from pathlib import Path

import pytest

from qllava.errors import DeviceError
from qllava.plan import device
from qllava.plan.device import Card, DeviceProbe, check_card, choose_card, parse_cards, probe_devices, require_usable

GIB = 2**30
MIB = 2**20

TWO_CARDS = """0, GPU-aaaa-1, NVIDIA GeForce RTX 4090, 24564, 1024, 8.9
1, GPU-bbbb-2, NVIDIA GeForce RTX 3090, 24576, 24000, 8.6
"""


def card(index: int = 0, capability: tuple[int, int] | None = (8, 6), free: int = 23 * GIB) -> Card:
    return Card(index, f"GPU-{index}", "NVIDIA GeForce RTX 3090", 24 * GIB, free, capability)


@pytest.fixture
def with_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "nvidia_cards", lambda: parse_cards(TWO_CARDS))
    monkeypatch.setattr(device, "nvidia_present", lambda: True)
    monkeypatch.setattr(device, "_cuda_started", lambda: False)


def test_nvidia_smi_lines_are_read() -> None:
    first, second = parse_cards(TWO_CARDS)
    assert first == Card(0, "GPU-aaaa-1", "NVIDIA GeForce RTX 4090", 24564 * MIB, 1024 * MIB, (8, 9))
    assert second.capability == (8, 6)


@pytest.mark.parametrize("answer", ["", "No devices were found\n", "NVIDIA-SMI has failed because ...\n", "0, a, b\n"])
def test_what_is_no_card_line_is_no_card(answer: str) -> None:
    assert parse_cards(answer) == ()


def test_unreadable_fields_fall_back() -> None:
    (only,) = parse_cards("0, GPU-1, NVIDIA GB10, 24576, [N/A], [N/A]\n")
    assert (only.free_bytes, only.capability) == (24576 * MIB, None)


def test_of_two_cards_the_freer_is_chosen_and_made_the_only_visible_one(with_cards: None) -> None:
    environ = {"PATH": "/bin"}
    chosen, note = choose_card(parse_cards(TWO_CARDS), environ)
    assert chosen is not None
    assert chosen.index == 1
    assert environ["CUDA_VISIBLE_DEVICES"] == "GPU-bbbb-2"
    assert note == "card 1 of 2, the one with the most free memory; CUDA_VISIBLE_DEVICES chooses another"


@pytest.mark.parametrize(("value", "index"), [("0", 0), ("1", 1), ("GPU-aaaa", 0), ("9", 0)])
def test_the_users_choice_of_one_card_stands(value: str, index: int) -> None:
    environ = {"CUDA_VISIBLE_DEVICES": value}
    chosen, note = choose_card(parse_cards(TWO_CARDS), environ, cuda_started=False)
    assert chosen is not None
    assert (chosen.index, note, environ) == (index, None, {"CUDA_VISIBLE_DEVICES": value})


def test_of_several_that_the_user_names_the_first_is_taken() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "1,0"}
    chosen, note = choose_card(parse_cards(TWO_CARDS), environ, cuda_started=False)
    assert chosen is not None
    assert (chosen.index, environ["CUDA_VISIBLE_DEVICES"]) == (1, "GPU-bbbb-2")
    assert note == "card 1, the first of CUDA_VISIBLE_DEVICES=1,0; training uses one"


def test_a_launcher_with_several_processes_is_left_alone() -> None:
    environ = {"WORLD_SIZE": "2"}
    choose_card(parse_cards(TWO_CARDS), environ, cuda_started=False)
    assert environ == {"WORLD_SIZE": "2"}


def test_once_cuda_runs_the_environment_is_not_touched() -> None:
    environ: dict[str, str] = {}
    chosen, note = choose_card(parse_cards(TWO_CARDS), environ, cuda_started=True)
    assert chosen is not None
    assert (chosen.index, note, environ) == (0, "2 cards, and CUDA is in use already: the first", {})


def test_a_working_card() -> None:
    probe = check_card(card(), 1, None, lambda: None)
    assert (probe.kind, probe.bf16, probe.total_bytes, probe.problem) == ("cuda", True, 24 * GIB, None)
    require_usable(probe)


def test_a_card_that_fails_the_nf4_test_is_an_error_with_versions_and_fix() -> None:
    problem = "torch 2.13.0+cpu is a build without CUDA; `pip install --force-reinstall torch`"
    probe = check_card(card(), 1, None, lambda: problem)
    assert probe.kind == "broken"
    expected = f"NVIDIA GeForce RTX 3090 is present but cannot be used: {problem}"
    with pytest.raises(DeviceError, match=re.escape(expected)) as caught:
        require_usable(probe)
    assert caught.value.exit_code == 1


def test_a_card_that_nvidia_smi_does_not_list_is_broken() -> None:
    probe = check_card(None, 0, None, lambda: None)
    assert probe.kind == "broken"
    assert probe.problem == "nvidia-smi does not list it; reinstall the driver, then restart"


def test_turing_is_refused_with_the_reason_before_any_test_runs() -> None:
    def never() -> str:
        raise AssertionError("the NF4 test must not run")

    probe = check_card(card(capability=(7, 5)), 1, None, never)
    assert (probe.kind, probe.bf16) == ("cuda", False)
    with pytest.raises(DeviceError, match=r"compute capability 7\.5\) has no bfloat16.*RTX 30 series"):
        require_usable(probe)


def test_no_card_is_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "nvidia_present", lambda: False)
    probe = probe_devices({})
    assert (probe.kind, probe.count, probe.note) == ("cpu", 0, None)
    assert re.fullmatch(r"CPU, \d+ cores", probe.name)
    assert 0 < probe.free_bytes <= probe.total_bytes
    require_usable(probe)


@pytest.mark.parametrize("value", ["", "-1"])
def test_cards_that_the_user_hides_are_not_used_and_that_is_said(with_cards: None, value: str) -> None:
    probe = probe_devices({"CUDA_VISIBLE_DEVICES": value})
    assert (probe.kind, probe.note) == ("cpu", f"CUDA_VISIBLE_DEVICES={value} hides the NVIDIA cards")


def test_a_present_card_is_never_silently_passed_over(with_cards: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "nf4_problem", lambda: "CUDA does not start (driver too old)")
    environ: dict[str, str] = {}
    probe = probe_devices(environ)
    assert (probe.kind, probe.name, probe.count) == ("broken", "NVIDIA GeForce RTX 3090", 2)
    assert environ == {"CUDA_VISIBLE_DEVICES": "GPU-bbbb-2"}
    with pytest.raises(DeviceError, match="CUDA does not start"):
        require_usable(probe)


def test_the_nf4_test_explains_a_cpu_build_of_torch() -> None:
    torch = pytest.importorskip("torch")
    if torch.version.cuda is not None:
        pytest.skip("this is a CUDA build")
    assert device.nf4_problem() == (
        f"torch {torch.__version__} is a build without CUDA; `pip install --force-reinstall torch` from an index that "
        "serves the CUDA build"
    )


@pytest.mark.gpu
def test_the_nf4_test_passes_on_a_card() -> None:
    assert device.nf4_problem() is None


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  800 kB\n")
    assert device.system_memory(tmp_path) == (1000 * 1024, 800 * 1024)
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("100000\n")
    (group / "memory.max").write_text("max\n")
    assert device.system_memory(tmp_path) == (1000 * 1024, 800 * 1024)
    (group / "memory.max").write_text("500000\n")
    assert device.system_memory(tmp_path) == (500000, 400000)


def test_probes_are_frozen() -> None:
    with pytest.raises(AttributeError):
        DeviceProbe("cpu", "CPU", 1, 1).name = "other"  # type: ignore[misc]
