import base64
import hashlib
import json
import re
from pathlib import Path

import httpx2
import pytest

from qllava.infer.sampling import Sampling
from qllava.serve.examples import Example, find_examples
from qllava.serve.page import Page
from tests.infer.tiny_run import picture
from tests.serve.server import Running


def test_the_page_needs_nothing_from_elsewhere_and_only_its_own_script_runs() -> None:
    page = Page("m", Sampling(), [], body_bytes=1)
    html = page.html.decode()
    assert not re.search(r"https?://|//\w+\.", html.replace("http://www.w3.org", ""))
    assert not re.search(r"\bon\w+=|innerHTML|insertAdjacentHTML|eval\(|style=", html)
    policy = page.headers["Content-Security-Policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{hashed}';" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_it_is_served_with_the_servers_settings(server: Running) -> None:
    with httpx2.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        page = client.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["x-frame-options"] == "DENY"
        settings = client.get("/page/settings").json()
        assert settings["model"] == "exact"
        assert settings["sampling"] == {"temperature": 0.0, "top_p": 1.0, "max_tokens": 512, "seed": 0}
        assert client.get("/page/examples/0").status_code == 404


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "pictures").mkdir()
    rows = []
    for index in range(9):
        picture(index * 20).save(tmp_path / "pictures" / f"{index}.png")
        rows += [
            {"id": f"{index}-{kind}", "image": f"{index}.png", "question": f"{kind} {index // 2}?", "answers": ["x"]}
            for kind in ("What", "How")
        ]
    rows.insert(0, {"id": "out", "image": "../secret.png", "question": "out?", "answers": ["x"]})
    rows.insert(0, {"id": "none", "image": None, "question": "none?", "answers": ["x"]})
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "data" / "heldout.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_examples_are_different_pictures_and_questions_inside_the_image_folder(data: Path) -> None:
    named = {"path": str(data / "data" / "instruct.json"), "image_root": str(data / "pictures")}
    root = (data / "pictures").resolve()
    assert find_examples(named) == (
        Example(root / "0.png", "What 0?"),
        Example(root / "1.png", "How 0?"),
        Example(root / "2.png", "What 1?"),
        Example(root / "3.png", "How 1?"),
        Example(root / "4.png", "What 2?"),
        Example(root / "5.png", "How 2?"),
    )
    assert len(find_examples(named, 2)) == 2


def test_without_the_data_there_are_no_examples(data: Path) -> None:
    assert find_examples({}) == ()
    assert find_examples({"path": str(data / "elsewhere" / "x.json"), "image_root": str(data)}) == ()
