"""One sealed record, exported once, that the export tests share; what a test changes it copies first."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from grpo_audit.catalogue.evidence import Basis, BasisKind, Evidence, at
from grpo_audit.catalogue.field import Field
from grpo_audit.catalogue.lineage import Stage
from grpo_audit.export.dsse import EcdsaSigner
from grpo_audit.export.facts import ExportFacts, gather
from grpo_audit.export.package import Keys, Package, Part, make, write
from grpo_audit.ledger.keys import AttestationKey, SigningKey
from grpo_audit.ledger.project import Project
from grpo_audit.record.identities import FileDigest
from grpo_audit.report.evidence import Fact
from grpo_audit.verify.l0 import verify


@dataclass(frozen=True)
class Exported:
    """A record, its facts, its keys and its export."""

    db: Path
    run_id: str
    other: str
    """An unsealed run of the same project."""

    run_folder: Path
    facts: ExportFacts
    keys: Keys
    package: Package
    folder: Path
    """Where the export was written."""

    key_file: Path
    """The public key, by another way than the export."""

    @property
    def model(self) -> Path:
        """The released weights."""
        return self.run_folder / "model"

    @property
    def signer(self) -> EcdsaSigner:
        """Who signed it."""
        return EcdsaSigner(self.keys.attestation)


def facts_of(db: Path, run_id: str, folder: Path) -> ExportFacts:
    """Verify and gather."""
    verification = verify(db, run=run_id, run_folder=folder)
    with Project.open(db, mode="read") as project:
        return gather(project, run_id, verification, folder)


@pytest.fixture(scope="session")
def gathered() -> Callable[[Path, str, Path], ExportFacts]:
    """``gathered(db, run id, run folder)``: the facts, as the program gathers them."""
    return facts_of


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, build_record: Callable[..., str]) -> Iterator[Exported]:
    """A project with an unfinished and a sealed run; the sealed one is exported."""
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_AUDIT_HOME", str(folder / "home"))
        db = folder / "record.db"
        other = build_record(db, steps=2, sealed=False, seed=7)
        run_id = build_record(db)
        keys = Keys(AttestationKey.load_or_create(), SigningKey.load_or_create())
        facts = facts_of(db, run_id, folder / run_id)
        package = make(facts, list(Part), keys)
        write(package, folder / "out")
        key_file = folder / "key.pem"
        key_file.write_bytes(keys.attestation.public_pem())
        yield Exported(db, run_id, other, folder / run_id, facts, keys, package, folder / "out", key_file)


@pytest.fixture
def published(exported: Exported, tmp_path: Path) -> Path:
    """A copy of the export with the weights beside it, as in a repository of the Hub."""
    folder = tmp_path / "repository"
    shutil.copytree(exported.model, folder)
    shutil.copytree(exported.folder, folder, dirs_exist_ok=True)
    return folder


_KEPT = re.compile(r"(sha256:)?[0-9a-f]{64}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z|[0-9a-f]{32}")


def _poison(value: Any, text: str) -> Any:
    if isinstance(value, Enum) or value is None or isinstance(value, Path):
        return value
    if isinstance(value, str):
        return value if _KEPT.fullmatch(value) else text
    if isinstance(value, FileDigest):
        return value
    if isinstance(value, BaseModel):
        found = {name: _poison(getattr(value, name), text) for name in type(value).model_fields}
        return value.model_copy(update=found)
    if isinstance(value, list | tuple):
        return type(value)(_poison(item, text) for item in value)
    if isinstance(value, Mapping):
        return {key: _poison(item, text) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if not (isinstance(value, Fact) and field.name == "label")]
        return replace(value, **{name: _poison(getattr(value, name), text) for name in names})
    return value


@pytest.fixture(scope="session")
def poison() -> Callable[[ExportFacts, str], ExportFacts]:
    """``poison(facts, text)``: the same facts with every text that a person or a model could have written replaced;
    digests, times and the resolved configuration, which has types of its own, are kept."""

    def poisoned(facts: ExportFacts, text: str) -> ExportFacts:
        found = _poison(replace(facts, draft=(text,)), text)
        payload = found.registered.payload.model_copy(update={"config": facts.registered.payload.config})
        assert isinstance(found, ExportFacts)
        return replace(found, registered=replace(found.registered, payload=payload))

    return poisoned


def _stage(kind: str, name: str, **said: Any) -> Stage:
    nothing = {key: None for key in ("model", "digest", "data", "flop", "flop_source", "licence", "run", "project")}
    basis = Basis(kind=BasisKind.OPERATOR, citation="recipe: lineage")
    declared = {"evidence": Evidence.DECLARED, "pointer": at(1), "basis": basis, "check": "nothing was checked"}
    return Stage(kind=kind, name=name, **{**nothing, **declared, **said})


@pytest.fixture
def with_stages(exported: Exported) -> ExportFacts:
    """The facts of a run whose recipe declares two stages before it, oldest first: ``first`` and ``second``."""
    stages = [
        _stage("pre-training", "first", flop=1e21, flop_source="its card"),
        _stage("SFT", "second", licence="MIT"),
    ]
    field: Field[Any] = Field(value=stages, evidence=Evidence.DECLARED, pointer=at(1))
    catalogue = exported.facts.catalogue
    lineage = catalogue.lineage.model_copy(update={"stages_before": field})
    return replace(exported.facts, catalogue=catalogue.model_copy(update={"lineage": lineage}))


HOSTILE = [
    "---\nlicense: evil\n---\n# Injected",
    "</script><img src=x onerror=alert(1)> [x](javascript:alert(1))",
    "../../../etc/passwd",
    "\x00\x1b[31m\u202e\u2028\x85 end",
    "| a | b |\n|---|---|\n```\n> **quote**",
    '", "injected": {"a": 1}, "x": "',
    "hub:../..",
    "yes",
    "",
    "x" * 5000,
    "- a: [b",
    "{{ 7*7 }}{% raw %}",
]


@pytest.fixture(params=HOSTILE, ids=range(len(HOSTILE)))
def hostile(request: pytest.FixtureRequest) -> str:
    """One hostile text after the other."""
    return str(request.param)
