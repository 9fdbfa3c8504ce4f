"""What is read off and set on a card, without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qllava.plan.device import GIB
from qllava.train import card
from qllava.train.card import Holder, other_holders, parse_holders, torch_bytes, use_expandable_segments

ANSWER = """\
1200, /usr/lib/xorg/Xorg, 312
4242, python, 9000
77, C:\\Windows\\explorer.exe, [N/A]
31337, /opt/ollama/bin/ollama, 5120
no processes
"""


def test_other_holders_are_named_largest_first() -> None:
    holders = parse_holders(ANSWER, own_pid=4242)
    assert holders == [
        Holder(31337, "/opt/ollama/bin/ollama", 5 * GIB),
        Holder(1200, "/usr/lib/xorg/Xorg", 312 * 2**20),
        Holder(77, "C:\\Windows\\explorer.exe", None),
    ]
    assert str(holders[0]) == "ollama (pid 31337) 5.0 GiB"
    assert parse_holders("", own_pid=1) == []


def test_nvidia_smi_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\ntest "$1" = --query-compute-apps=pid,process_name,used_memory || exit 9\necho "7, game, 100"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert other_holders() == [Holder(7, "game", 100 * 2**20)]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert other_holders() == []
    monkeypatch.setenv("PATH", "")
    assert other_holders() == []


def test_segments_expand_unless_the_user_said_otherwise() -> None:
    environ: dict[str, str] = {}
    use_expandable_segments(environ)
    assert environ == {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        environ = {name: "backend:cudaMallocAsync"}
        use_expandable_segments(environ)
        assert environ == {name: "backend:cudaMallocAsync"}


def test_a_card_of_24_gb_leaves_torch_about_22() -> None:
    assert torch_bytes(24) / GIB == pytest.approx(22.4, abs=0.1)


def test_the_setting_comes_before_torch() -> None:
    code = "import qllava.train.card, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert card.ALLOCATOR == "PYTORCH_CUDA_ALLOC_CONF"
