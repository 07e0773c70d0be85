"""An auditor's machine: the base install and a bundle, nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo_audit.export.bundle import BundleOptions, write_bundle
from grpo_audit.verify.bundle import BundleSource

BuildRecord = Callable[..., str]
# fmt: off
REFUSED = [
    "torch", "transformers", "lm_eval", "accelerate", "peft", "safetensors", "datasets", "pyarrow",
    "huggingface_hub", "trl", "vllm", "tokenizers", "grpo_audit_trainer", "grpo_audit_evals", "math_verify",
    "jsonschema", "regex", "psycopg", "rfc3161_client", "model_signing", "cyclonedx", "mlcroissant", "prov",
    "in_toto_attestation", "securesystemslib", "pymerkle", "pytest", "hypothesis",
]
# fmt: on
MAIN = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {REFUSED!r}:
            raise ImportError(f"{{name}} is not part of the base install")
sys.meta_path.insert(0, Refuse())
from grpo_audit.cli import main
main()
"""


@pytest.fixture
def bundle(tmp_path: Path, build_record: BuildRecord) -> Path:
    """A bundle with the model, of the first of two runs."""
    run_id = build_record(tmp_path / "made" / "record.db", steps=1, prompts=1, group_size=2)
    build_record(tmp_path / "made" / "record.db", steps=1, prompts=1, group_size=2, seed=1)
    options = BundleOptions(with_weights=True)
    write_bundle(tmp_path / "made" / "record.db", run_id, tmp_path / "made" / run_id, tmp_path / "b.zip", options)
    return tmp_path / "b.zip"


def grpo_audit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program on a machine of its own, with only what the base install has."""
    environment = {**os.environ, "GRPO_AUDIT_HOME": str(folder / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", MAIN, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


def test_a_bundle_is_verified_with_the_base_install_only(bundle: Path, tmp_path: Path) -> None:
    """``grpo-audit verify BUNDLE --key KEY`` gives a verdict, exit code 0, and writes nothing but its memory."""
    with BundleSource.open(bundle) as source:
        key = source.manifest.key
    auditor = tmp_path / "auditor"
    auditor.mkdir()
    done = grpo_audit(auditor, "verify", str(bundle), "--key", key, "--json")
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["ok"] and verdict["sealed"] and verdict["key_source"] == "given by the user"
    assert [path.name for path in auditor.iterdir()] == ["home"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["auditor", "b.zip", "made"]


def test_a_refused_bundle_is_one_line_and_exit_code_1(bundle: Path, tmp_path: Path) -> None:
    """A hostile bundle gives its name in the verdict, no traceback, exit code 1."""
    bundle.write_bytes(bundle.read_bytes() + b"x")
    done = grpo_audit(tmp_path, "verify", str(bundle))
    assert done.returncode == 1
    assert "trailing-data" in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_without_a_key_the_verdict_says_whose_key_it_used(bundle: Path, tmp_path: Path) -> None:
    """On a machine that knows no key, the bundle's own is used, with the plain warning."""
    done = grpo_audit(tmp_path, "verify", str(bundle))
    assert done.returncode == 0, done.stderr
    assert "whose key it is" in done.stdout


def test_the_verdict_of_a_bundle_is_that_of_its_record(bundle: Path, tmp_path: Path) -> None:
    """Outcome by outcome, but for projections, of which a bundle has none."""
    run = json.loads(grpo_audit(tmp_path, "verify", str(bundle), "--json").stdout)["run"]["run_id"]
    record = tmp_path / "made" / "record.db"
    verdicts = [
        json.loads(grpo_audit(tmp_path, "verify", *arguments, "--json").stdout)
        for arguments in ((str(bundle),), (run, "--db", str(record)))
    ]
    outcomes = [{check["name"]: check["outcome"] for check in verdict["checks"]} for verdict in verdicts]
    assert outcomes[0].pop("projections") == "nothing to check" and outcomes[1].pop("projections") == "passed"
    assert outcomes[0] == outcomes[1]
    for name in ("root", "events", "public_key", "attestation", "run", "exit_code"):
        assert verdicts[0][name] == verdicts[1][name], name
