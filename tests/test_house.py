"""The house rules that no linter checks."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUP = PROJECT["tool"]["setuptools"]


def folder_of(package: str) -> Path:
    """Where a package's files lie in the source tree."""
    top, _, rest = package.partition(".")
    base = ROOT / SETUP["package-dir"].get(top, top)
    return base.joinpath(*rest.split(".")) if rest else base


def test_every_package_is_listed() -> None:
    """Each folder with Python files under a source root is in pyproject's list of packages, and the reverse."""
    roots = {"grpo_audit": ROOT / "grpo_audit"} | {
        name: ROOT / path for name, path in SETUP["package-dir"].items() if name
    }
    found = {
        ".".join([name, *path.parent.relative_to(root).parts])
        for name, root in roots.items()
        for path in root.rglob("*.py")
    }
    assert found == set(SETUP["packages"])


def test_the_wheel_holds_everything_and_the_base_install_needs_no_torch(tmp_path: Path) -> None:
    """A built wheel, unpacked elsewhere, has model, data, tasks, templates and recipe; and its command line verifies
    without importing torch, transformers or lm-eval."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(site)], check=True)
    for name in (
        "grpo_audit_builtin/model/model.safetensors",
        "grpo_audit_builtin/recipes/demo.yaml",
        "grpo_audit_builtin/data/rl_train.jsonl",
        "grpo_audit_evals/tasks/builtin/builtin_countdown.yaml",
        "grpo_audit_evals/tasks/builtin/data/countdown.jsonl",
        "grpo_audit_templates/report.html.j2",
        "grpo_audit/catalogue/standards/annex_xi.json",
        "grpo_audit_trainer/loop.py",
    ):
        assert (site / name).is_file(), name
    script = (
        "import sys, grpo_audit.cli.app, grpo_audit.verify.l0, grpo_audit.report.render;"
        "assert grpo_audit.cli.app.__file__.startswith(sys.argv[1]);"
        "print(sorted({'torch', 'transformers', 'lm_eval'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(site)],
        env={"PYTHONPATH": str(site), "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("extra", list(PROJECT["project"]["optional-dependencies"]))
def test_every_dependency_is_pinned(extra: str) -> None:
    """What pyproject asks for, the constraints file pins to one version."""
    pins = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"][extra]
    names = {item.split(">=")[0].split("[")[0].lower().replace("_", "-") for item in wanted}
    assert names - {PROJECT["project"]["name"]} <= pins
