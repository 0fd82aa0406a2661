"""The wheel: complete, and a good neighbour of the distribution that owns `supervisor`.

PyPI's supervisord installs a top-level package `supervisor`. Ours lives below `fsmv2`, so that
neither overwrites the other's files and either can be uninstalled alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = [pytest.mark.proc, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("supervisor", "ipc", "workerproc", "communicator", "examples")
BUILD_FILES = ("pyproject.toml", "README.md", "LICENSE")
STANDIN_VERSION = "0.0.1"


class Site(NamedTuple):
    """A virtual environment of its own, without pip, that sees this one's libraries."""

    python: Path
    packages: Path

    def see_libraries(self, see: bool) -> None:
        """Let it import this environment's libraries, or not.

        A line of a .pth file is a folder to look in, after the environment's own; the .pth
        files in that folder are not read, so an editable install of ours does not come along.
        pip must not see that folder: it would take what lies there for installed here.
        """
        file = self.packages / "libraries.pth"
        if see:
            file.write_text(sysconfig.get_paths()["purelib"] + "\n")
        else:
            file.unlink(missing_ok=True)

    def run(self, *arguments: str, cwd: Path) -> str:
        """Run a program of this environment; gives its standard output, must succeed."""
        program = str(self.python.parent / arguments[0])
        return run([program, *arguments[1:]], cwd)


def run(command: list[str], cwd: Path) -> str:
    """Run a command without what this test run has in its environment for Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        command, cwd=cwd, env=kept, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{command} gave {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pip(*arguments: str, cwd: Path) -> str:
    """Run this environment's pip."""
    return run([sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", *arguments], cwd)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheel, built from a copy, so that the build leaves nothing in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    shutil.copytree(ROOT / "ops/runbooks", source / "ops/runbooks")
    for name in BUILD_FILES:
        shutil.copy(ROOT / name, source / name)
    made = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--no-deps", "--quiet", "--wheel-dir", str(made)]
    try:
        pip(*build, str(source), cwd=source)
    except AssertionError as isolated:
        try:  # without an index, an installed setuptools may do
            pip(*build, "--no-build-isolation", str(source), cwd=source)
        except AssertionError:
            if "setuptools" in str(isolated) and "No matching distribution" in str(isolated):
                pytest.skip("no package index, and the installed setuptools is too old to build")
            raise isolated from None
    (found,) = made.glob("*.whl")
    return found


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A fresh environment; the libraries we need come from the running one."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    return Site(folder / "bin" / "python", next(folder.glob("lib/python3*/site-packages")))


def install(site: Site, *what: str, cwd: Path) -> None:
    """Install into ``site`` what is given, in that order, and nothing it depends on."""
    site.see_libraries(False)
    for each in what:
        pip("--python", str(site.python), "install", "--quiet", "--no-deps", each, cwd=cwd)
    site.see_libraries(True)


def uninstall(site: Site, name: str, cwd: Path) -> None:
    """Take a distribution out of ``site``."""
    site.see_libraries(False)
    pip("--python", str(site.python), "uninstall", "--yes", "--quiet", name, cwd=cwd)
    site.see_libraries(True)


def make_standin(folder: Path) -> Path:
    """A wheel that owns top-level `supervisor` with a command, as supervisord's does."""
    info = f"supervisor-{STANDIN_VERSION}.dist-info"
    files = {
        "supervisor/__init__.py": "owner = 'the other distribution'\n",
        "supervisor/supervisord.py": f"def main():\n    print('{STANDIN_VERSION}')\n",
        # Names that ours has too: were ours installed bare, one of the two would be lost.
        "supervisor/events.py": "owner = 'the other distribution'\n",
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: supervisor\nVersion: {STANDIN_VERSION}\n"
        ),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": (
            "[console_scripts]\nsupervisord = supervisor.supervisord:main\n"
        ),
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    path = folder / f"supervisor-{STANDIN_VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_wheel_holds_every_module_and_page(wheel: Path) -> None:
    """Nothing is missing: modules, the page, the examples' configs, the markers, the licence."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    kinds = {".py", ".yaml", ".html", ".css", ".js", ".typed"}
    wanted = {
        f"fsmv2/{file.relative_to(ROOT).as_posix()}"
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.suffix in kinds
    }

    wanted |= {f"fsmv2/runbooks/{file.name}" for file in (ROOT / "ops/runbooks").iterdir()}

    assert sorted(wanted - names) == []
    assert {"fsmv2/examples/hello.yaml", "fsmv2/supervisor/web/page.html"} <= wanted
    assert {f"fsmv2/{package}/py.typed" for package in PACKAGES} <= wanted
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


def test_wheel_owns_nothing_but_fsmv2(wheel: Path) -> None:
    """No bare `supervisor`, `ipc`, … at the top: those names belong to others."""
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"fsmv2"}
    assert len(tops) == 2


def test_wheel_works_without_the_checkout(wheel: Path, site: Site, tmp_path: Path) -> None:
    """Installed, the command checks and runs the hello example, procs and all."""
    install(site, str(wheel), cwd=tmp_path)
    config = site.packages / "fsmv2/examples/hello.yaml"
    where = site.run(
        "python", "-c", "import fsmv2.workerproc as w; print(w.__file__)", cwd=tmp_path
    )

    assert Path(where.strip()).is_relative_to(site.packages)
    assert "1 worker of type" in site.run("fsmv2", "check", str(config), cwd=tmp_path)
    assert "--seconds" in site.run("fsmv2", "demo", "--help", cwd=tmp_path)
    assert "## Prevent" in site.run("fsmv2", "runbook", "disk-full", cwd=tmp_path)
    summary = site.run("fsmv2", "run", str(config), "--seconds", "3", "--http", "off", cwd=tmp_path)
    assert "clean stop" in summary
    assert "actions run: 1 (1 succeeded" in summary


def test_bare_names_are_not_importable(wheel: Path, site: Site, tmp_path: Path) -> None:
    """None of our folders can be imported under the name it has in the checkout."""
    install(site, str(wheel), cwd=tmp_path)
    code = (
        "from importlib.util import find_spec\n"
        f"specs = {{name: find_spec(name) for name in {PACKAGES!r}}}\n"
        "print(*(f'{n}={s.origin}' for n, s in specs.items() if s is not None))"
    )
    found = site.run("python", "-c", code, cwd=tmp_path).split()

    # The libraries' folder may hold somebody's `examples`; ours are in the site's own.
    assert [each for each in found if str(site.packages) in each] == []


def _lives_beside(other: str, wheel: Path, site: Site, tmp_path: Path, *, ours_first: bool) -> None:
    order = [str(wheel), other] if ours_first else [other, str(wheel)]
    install(site, *order, cwd=tmp_path)
    both = (
        "import supervisor, supervisor.events, fsmv2.supervisor, fsmv2.supervisor.core.events\n"
        "assert supervisor is not fsmv2.supervisor\n"
        "print(supervisor.__file__, fsmv2.supervisor.__file__)"
    )
    theirs, ours = site.run("python", "-c", both, cwd=tmp_path).split()
    assert Path(theirs) == site.packages / "supervisor/__init__.py"
    assert Path(ours) == site.packages / "fsmv2/supervisor/__init__.py"
    assert site.run("supervisord", "--version", cwd=tmp_path).strip()
    assert site.run("fsmv2", "--version", cwd=tmp_path).startswith("fsmv2 ")

    uninstall(site, "fsmv2", cwd=tmp_path)

    # pip may leave the empty folder.
    left = [file for file in (site.packages / "fsmv2").rglob("*") if file.is_file()]
    assert left == []
    assert site.run("supervisord", "--version", cwd=tmp_path).strip()


@pytest.mark.parametrize("ours_first", [True, False], ids=["ours first", "theirs first"])
def test_wheel_lives_beside_a_package_named_supervisor(
    wheel: Path, site: Site, tmp_path: Path, ours_first: bool
) -> None:
    """Both work in either order of installation, and the other survives our removal."""
    other = make_standin(tmp_path)

    _lives_beside(str(other), wheel, site, tmp_path, ours_first=ours_first)


def test_wheel_lives_beside_the_real_supervisord(wheel: Path, site: Site, tmp_path: Path) -> None:
    """The same with the real distribution, where a package index can be reached."""
    fetch = ["download", "--quiet", "--no-deps", "--retries", "0", "--timeout", "20"]
    try:
        pip(*fetch, "--dest", str(tmp_path / "other"), "supervisor", cwd=tmp_path)
    except AssertionError:
        pytest.skip("supervisor cannot be downloaded; the stand-in test covers the same")
    (other,) = (tmp_path / "other").iterdir()

    _lives_beside(str(other), wheel, site, tmp_path, ours_first=True)
