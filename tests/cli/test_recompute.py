"""Level L1 on a run of the program itself: the record, and a bundle of it."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def copied(finished: Any, tmp_path: Path) -> Any:
    """The shared run, to be changed."""
    folder = tmp_path / "work"
    shutil.copytree(finished.place.folder, folder)
    return type(finished.place)(folder, finished.place.home)


def checks(output: str) -> dict[int, tuple[str, str]]:
    """Outcome and detail by number."""
    return {check["number"]: (check["outcome"], check["detail"]) for check in json.loads(output)["checks"]}


def test_a_real_run_is_recomputed_whole(finished: Any) -> None:
    """Every number of a run that the program trained, evaluated and reported follows from its record."""
    done = finished.place.run("verify", "--level", "L1", "--json")
    found = checks(done.stdout)
    assert {number: found[number] for number in range(20, 32) if found[number][0] != "passed"} == {}
    assert done.returncode == 0


def test_a_bundle_without_text_fails_nothing_and_quotes_nothing(copied: Any) -> None:
    """What rests on withheld answers is not confirmed, which is said, and is no failure; the report, which quotes
    prompts and completions, stays out."""
    findings = json.loads((next((copied.folder / "runs").glob("*/report.json"))).read_text())["report"]["findings"]
    assert "evaluation-did-not-see-the-weights" in json.dumps(findings), "the run no longer has the finding it is about"
    made = copied.run("bundle", "--without-text", "--to", "bundle.zip")
    assert made.returncode == 0, made.stderr
    shutil.rmtree(copied.folder / "runs")
    done = copied.run("verify", "bundle.zip", "--level", "L1", "--json")
    found = checks(done.stdout)
    assert {number: check for number, check in found.items() if check[0] == "failed"} == {}
    assert "evaluation-did-not-see-the-weights" in found[30][1]
    with zipfile.ZipFile(copied.folder / "bundle.zip") as archive:
        assert not [name for name in archive.namelist() if b"Say one" in archive.read(name)]


def test_a_bundle_is_recomputed_whole(copied: Any) -> None:
    """Somebody who has nothing but the bundle recomputes the same."""
    made = copied.run("bundle", "--to", "bundle.zip")
    assert made.returncode == 0, made.stderr
    shutil.rmtree(copied.folder / "runs")
    done = copied.run("verify", "bundle.zip", "--level", "L1", "--json")
    found = checks(done.stdout)
    assert {number: found[number] for number in range(20, 32) if found[number][0] != "passed"} == {}
    assert done.returncode == 0


def test_a_number_changed_in_the_report_is_found(copied: Any) -> None:
    """The report beside the record is compared with it, value by value; level L0 does not look at it."""
    (page,) = (copied.folder / "runs").glob("*/report.json")
    text = page.read_text()
    assert '"pre": ' in text
    page.write_text(text.replace('"pre": ', '"pre": 1', 1))
    done = copied.run("verify", "--level", "L1", "--json")
    outcome, detail = checks(done.stdout)[31]
    assert outcome == "failed"
    assert "release.rows[0].pre" in detail
    assert done.returncode == 1
    assert copied.run("verify").returncode == 0
