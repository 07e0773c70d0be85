"""An export as a whole: the same bytes each time, marked when it is no release, and nothing overwritten by accident."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from grpo_audit.errors import ModelError, StorageError, VerificationError
from grpo_audit.export.facts import ExportFacts, gather
from grpo_audit.export.package import FILES, Keys, Package, Part, make, write
from grpo_audit.ledger.project import Project
from grpo_audit.verify.l0 import verify

GOLDEN = Path(__file__).with_name("golden")
REPEATED = {"properties", "technicalLimitations", "@context"}
"""Parts of the documents that have tests of their own, or are the standard's."""


def test_the_same_record_gives_the_same_bytes(
    exported: Any, gathered: Callable[..., ExportFacts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moved to another folder, verified by a machine that never saw it, exported twice: every byte is the same."""
    place = tmp_path / "elsewhere"
    shutil.copytree(exported.db.parent, place, ignore=shutil.ignore_patterns("out", "home", "*.lock"))
    for attempt in ("first", "second"):
        monkeypatch.setenv("GRPO_AUDIT_HOME", str(tmp_path / "other home"))
        facts = gathered(place / "record.db", exported.run_id, place / exported.run_id)
        found = make(facts, list(Part), exported.keys)
        assert found.files == exported.package.files, attempt


def test_a_file_of_the_export_does_not_depend_on_the_others(exported: Any) -> None:
    """Made alone, each part gives the same file, the card and the list of files aside, which name the others."""
    for part in Part:
        for name, data in make(exported.facts, [part], exported.keys).files.items():
            if name not in {"README.md", FILES}:
                assert data == exported.package.files[name], name


def test_everything_is_there(exported: Any) -> None:
    """All parts of a sealed run are made, and nothing is left out."""
    assert set(exported.package.files) == {
        ".eval_results/builtin.yaml",
        "README.md",
        "attestations/evaluation.dsse.json",
        "attestations/files.dsse.json",
        "attestations/key.pem",
        "attestations/provenance.dsse.json",
        "attestations/test-result.dsse.json",
        "bom.cdx.json",
        "croissant.json",
        "model.sig",
        "prov.json",
    }
    assert exported.package.skipped == {}


def test_no_private_key_leaves(exported: Any) -> None:
    """No file of an export holds a private key."""
    for data in exported.package.files.values():
        assert b"PRIVATE" not in data


@pytest.fixture(scope="module")
def draft(exported: Any) -> Package:
    """The unsealed run of the project, exported all the same."""
    folder = exported.run_folder.parent / exported.other
    verification = verify(exported.db, run=exported.other, run_folder=folder)
    with Project.open(exported.db, mode="read") as project:
        return make(gather(project, exported.other, verification, folder), list(Part), None)


def test_every_file_of_a_draft_says_so(draft: Package) -> None:
    """An unsealed run: card, metadata, bill of materials, data card and lineage carry the mark."""
    assert set(draft.files) == {"README.md", "bom.cdx.json", "croissant.json", "prov.json"}
    for name, data in draft.files.items():
        assert b"DRAFT, not a release: the run is not sealed" in data, name


def test_a_draft_is_not_signed(draft: Package) -> None:
    """Nothing of a draft is attested or signed, and both are said to be left out."""
    assert draft.skipped == {Part.ATTEST: "a draft is not signed", Part.SIGN: "a draft is not signed"}


def test_a_record_that_does_not_hold_gives_a_draft(
    exported: Any, gathered: Callable[..., ExportFacts], tmp_path: Path
) -> None:
    """With weights changed after the seal every file is marked, results included, and none is signed."""
    place = tmp_path / "copy"
    shutil.copytree(exported.db.parent, place, ignore=shutil.ignore_patterns("out", "home", "*.lock"))
    weights = place / exported.run_id / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    facts = gathered(place / "record.db", exported.run_id, place / exported.run_id)
    assert facts.is_draft and "(14) files" in facts.mark
    found = make(facts, list(Part), exported.keys)
    assert not [name for name in found.files if name.startswith("attestations") or name == "model.sig"]
    for name, data in found.files.items():
        assert b"DRAFT, not a release: the record does not hold" in data, name


def test_a_record_that_grew_since_is_not_exported(
    exported: Any, build_record: Callable[..., str], tmp_path: Path
) -> None:
    """A verification of another state of the record vouches for nothing."""
    shutil.copy(exported.db, tmp_path / "record.db")
    verification = verify(tmp_path / "record.db", run=exported.run_id, run_folder=exported.run_folder)
    with Project.open(tmp_path / "record.db", mode="read") as project:
        object.__setattr__(verification, "events", verification.events - 1)
        with pytest.raises(VerificationError, match="grew"):
            gather(project, exported.run_id, verification, exported.run_folder)


def test_weights_that_are_not_here_are_not_signed(exported: Any, tmp_path: Path) -> None:
    """Without the model folder the signature is left out with the reason; the statements rest on the record alone."""
    from dataclasses import replace

    found = make(replace(exported.facts, folder=tmp_path), list(Part), exported.keys)
    assert list(found.skipped) == [Part.SIGN] and "--folder" in found.skipped[Part.SIGN]
    assert "attestations/provenance.dsse.json" in found.files and "model.sig" not in found.files


def test_a_folder_with_a_stranger_is_not_signed(exported: Any, tmp_path: Path) -> None:
    """A file that was put beside the weights stops the export before anything is signed."""
    from dataclasses import replace

    shutil.copytree(exported.run_folder, tmp_path / "run")
    (tmp_path / "run" / "model" / "modeling_evil.py").write_text("import os")
    with pytest.raises(ModelError, match=r"modeling_evil\.py"):
        make(replace(exported.facts, folder=tmp_path / "run"), list(Part), exported.keys)


def test_writing_again_changes_nothing(exported: Any, tmp_path: Path) -> None:
    """The same export into the same folder leaves every file as it is, to the time of its last change."""
    write(exported.package, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    write(exported.package, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("name", ["README.md", "attestations/key.pem"])
def test_nothing_is_overwritten_without_a_word(exported: Any, tmp_path: Path, name: str) -> None:
    """A file with other content stops the export before anything is written; --overwrite replaces it."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(StorageError, match="without --overwrite"):
        write(exported.package, tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [Path(name).name]
    write(exported.package, tmp_path, overwrite=True)
    assert (tmp_path / name).read_bytes() == exported.package.files[name]


def test_a_link_is_not_written_through(exported: Any, tmp_path: Path) -> None:
    """A link in the place of a file is refused; with --overwrite it is replaced, and its target left alone."""
    target = tmp_path / "target"
    target.write_text("precious")
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").symlink_to(target)
    with pytest.raises(StorageError, match="without --overwrite"):
        write(exported.package, out)
    write(exported.package, out, overwrite=True)
    assert target.read_text() == "precious" and not (out / "README.md").is_symlink()


def test_a_folder_that_cannot_be_written_is_said(exported: Any, tmp_path: Path) -> None:
    """A file where the folder should be is an error with a next step."""
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StorageError, match="--to"):
        write(exported.package, tmp_path / "out")


# --- golden files -----------------------------------------------------------------------------------------------------


def scrubbed(exported: Any, name: str) -> str:
    """A file without what differs from record to record (times, ids, roots, keys), and without properties and limits,
    which repeat the report's own words."""
    data = exported.package.files[name]
    if name == "README.md":
        text = data.decode().split("\n---\n")[0]
    elif name.endswith(".yaml"):
        text = yaml.safe_dump(yaml.safe_load(data), sort_keys=False, width=1000)
    else:
        found = json.loads(data)
        if name.endswith(".dsse.json"):
            found = json.loads(base64.b64decode(found["payload"]))
            found.get("predicate", {}).get("buildDefinition", {}).get("externalParameters", {}).pop("configuration", 0)
        text = json.dumps(_without_properties(found), indent=1)
    for known, word in (
        (exported.facts.root, "ROOT"),
        (exported.facts.project_id, "PROJECT"),
    ):
        text = text.replace(known, word)
    text = re.sub(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{6}Z", "TIME", text)
    text = re.sub(r"urn:uuid:[0-9a-f-]{36}", "UUID", text)
    return re.sub(r'grpo-audit/PROJECT\+[^"\\ ]*', "KEY", text) + "\n"


def _without_properties(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_properties(item) for key, item in value.items() if key not in REPEATED}
    if isinstance(value, list):
        return [_without_properties(item) for item in value]
    return value


@pytest.mark.parametrize(
    "name",
    [
        ".eval_results/builtin.yaml",
        "README.md",
        "attestations/evaluation.dsse.json",
        "attestations/provenance.dsse.json",
        "attestations/test-result.dsse.json",
        "bom.cdx.json",
        "croissant.json",
        "prov.json",
    ],
)
def test_the_files_are_the_golden_ones(exported: Any, name: str) -> None:
    """What a record of known content exports is known; UPDATE_GOLDENS=1 writes it anew."""
    found = scrubbed(exported, name)
    path = GOLDEN / (name.replace("/", "_").lstrip(".") + ".txt")
    if os.environ.get("UPDATE_GOLDENS"):
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


def test_the_keys_sign_in_order(exported: Any) -> None:
    """The attestation key first, the log's key after it; without the log's key only the first."""
    both = json.loads(exported.package.files[FILES])["signatures"]
    alone = make(exported.facts, list(Part), Keys(exported.keys.attestation)).files[FILES]
    assert both[0]["keyid"] == exported.keys.attestation.key_id
    assert len(both) == 2 and len(json.loads(alone)["signatures"]) == 1


BASE_ONLY = """
import sys
from pathlib import Path

class Refuse:
    names = {names!r}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(f"{{name}} is not in the base install")

sys.meta_path.insert(0, Refuse())
from grpo_audit.cli.app import app
app(["export", {run!r}, "--db", {db!r}, "--folder", {folder!r}, "--to", {to!r}, "--log-key"])
"""


def test_the_base_install_makes_all_of_it(exported: Any, tmp_path: Path) -> None:
    """Without any library that the tests read the files with, and without torch, the same bytes come out."""
    names = {
        *(
            "torch",
            "transformers",
            "lm_eval",
            "datasets",
            "huggingface_hub",
            "cyclonedx",
            "mlcroissant",
            "prov",
            "yaml",
        ),
        *("in_toto_attestation", "securesystemslib", "model_signing", "sigstore", "OpenSSL", "google", "packageurl"),
    }
    script = BASE_ONLY.format(
        names=names,
        run=exported.run_id,
        db=str(exported.db),
        folder=str(exported.run_folder),
        to=str(tmp_path / "out"),
    )
    home = {"GRPO_AUDIT_HOME": str(exported.db.parent / "home")}
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, data in exported.package.files.items():
        assert (tmp_path / "out" / name).read_bytes() == data, name
