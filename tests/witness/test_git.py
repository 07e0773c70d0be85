"""A git repository as a witness."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from witness.logs import copy, grow, head_of
from witness.test_directory import statement

from grpo_audit.errors import ConfigError
from grpo_audit.ledger.notes import Checkpoint
from grpo_audit.ledger.project import Project
from grpo_audit.witness.ask import ask
from grpo_audit.witness.git import GitKind, GitStatement, Repository
from grpo_audit.witness.protocol import Judgement, WitnessRefused, WitnessUnavailable

KIND = GitKind()


def git(folder: Path, *arguments: str) -> str:
    """What git prints, with a configuration of its own."""
    command = ["git", "-c", "user.name=A", "-c", "user.email=a@b", "-c", "init.defaultBranch=main", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with one commit of somebody's."""
    folder = tmp_path / "clone"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "README").write_text("ours\n")
    git(folder, "add", "README")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def show(record: Path, rest: str | Path) -> int:
    """Show the newest head to a repository."""
    with Project.open(record, mode="write") as project:
        return ask(project, KIND.witness(str(rest)))


def test_heads_become_commits_of_one_file(record: Path, clone: Path) -> None:
    """Each newer head is one commit that leaves all else alone; the same head is not committed twice."""
    file = f"{head_of(record).origin.removeprefix('grpo-audit/')}.checkpoint"
    (clone / "unsaved").write_text("work in progress")
    for count, commits in ((0, 2), (0, 2), (3, 3)):
        grow(record, count)
        size = show(record, clone)
        assert git(clone, "show", f"main:{file}") + "\n" == _note(record)
        assert git(clone, "show", "main:README") == "ours"
        assert int(git(clone, "rev-list", "--count", "main")) == commits
        anchor = KIND.trusted(str(clone))
        result = anchor.judge(*statement(record, size), head_of(record))
        assert result.judgement is Judgement.HOLDS and git(clone, "rev-parse", "main") in result.detail
    assert git(clone, "status", "--porcelain", "--", "unsaved", "README") == "?? unsaved"


def _note(record: Path) -> str:
    with Project.open(record, mode="read") as project:
        return project.checkpoint().note.decode()


@pytest.mark.parametrize("bare", [False, True])
def test_an_empty_repository_and_another_branch_will_do(record: Path, tmp_path: Path, bare: bool) -> None:
    """The first commit of a new branch, in a working or bare repository, holds the head."""
    folder = tmp_path / "empty.git"
    folder.mkdir()
    git(folder, "init", "-q", *(["--bare"] if bare else []))
    assert show(record, f"{folder}#heads/of-logs") == 8
    anchor = KIND.trusted(f"{folder}#heads/of-logs")
    assert anchor.judge(*statement(record, 8), head_of(record)).judgement is Judgement.HOLDS
    assert anchor.memory(head_of(record).origin).head == head_of(record)


def test_heads_are_pushed_when_asked_to(record: Path, clone: Path, tmp_path: Path) -> None:
    """git:push:CLONE pushes the branch to origin; a push that is refused is WitnessUnavailable."""
    remote = tmp_path / "remote.git"
    git(tmp_path, "init", "-q", "--bare", str(remote))
    git(clone, "remote", "add", "origin", str(remote))
    show(record, f"push:{clone}")
    assert git(remote, "rev-parse", "main") == git(clone, "rev-parse", "main")
    (remote / "hooks" / "pre-receive").write_text("#!/bin/sh\nexit 1\n")
    (remote / "hooks" / "pre-receive").chmod(0o755)
    grow(record, 1)
    with pytest.raises(WitnessUnavailable, match="push failed"):
        show(record, f"push:{clone}")


def test_rollback_and_other_histories_are_refused(
    record: Path, clone: Path, tmp_path: Path, forget: Callable[[], None]
) -> None:
    """A shorter record, and one that went its own way, are refused with both heads; the branch stays where it is."""
    old, fork = copy(record, tmp_path / "old.db"), copy(record, tmp_path / "fork.db")
    grow(record, 3)
    show(record, clone)
    tip, seen = git(clone, "rev-parse", "main"), head_of(record)
    forget()
    with pytest.raises(WitnessRefused, match="refuses to go back") as caught:
        show(old, clone)
    assert seen.root.hex() in str(caught.value)
    grow(fork, 5, say="forged")
    with pytest.raises(WitnessRefused, match="another history") as caught:
        show(fork, clone)
    assert seen.root.hex() in str(caught.value) and head_of(fork).root.hex() in str(caught.value)
    assert git(clone, "rev-parse", "main") == tip


def test_hooks_and_configuration_of_others_have_no_say(
    record: Path, clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks in the clone do not run, and neither does what the user's configuration or environment asks for."""
    for name in ("reference-transaction", "post-commit", "pre-commit", "post-index-change"):
        hook = clone / ".git" / "hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
        hook.chmod(0o755)
    home = tmp_path / "person"
    home.mkdir()
    (home / ".gitconfig").write_text("[commit]\n\tgpgSign = true\n[user]\n\tname = Person\n[broken\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Person")
    assert show(record, clone) == 8
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not (tmp_path / "ran").exists()
    assert (
        subprocess.run(
            ["git", "log", "-1", "--format=%an"], cwd=clone, capture_output=True, text=True, check=True
        ).stdout.strip()
        == "grpo-audit"
    )


def test_a_commit_that_is_not_on_the_branch_does_not_count(record: Path, clone: Path, tmp_path: Path) -> None:
    """A branch that was moved away from the commit, and a repository that never had it, do not vouch."""
    show(record, clone)
    name, said = statement(record, 8)
    other = tmp_path / "other" / "clone"
    other.mkdir(parents=True)
    git(other, "init", "-q")
    git(other, "commit", "-q", "--allow-empty", "-m", "x")
    assert KIND.trusted(str(other)).judge(name, said, head_of(record)).judgement is Judgement.BROKEN
    git(clone, "update-ref", "refs/heads/main", "main~1")
    result = KIND.trusted(str(clone)).judge(name, said, head_of(record))
    assert result.judgement is Judgement.BROKEN and "not on branch" in result.detail


def test_a_statement_of_another_head_or_log_does_not_hold(record: Path, clone: Path) -> None:
    """The committed note must be this head: another size, root or origin, or a note nobody committed, is refused."""
    show(record, clone)
    name, said = statement(record, 8)
    head, anchor = head_of(record), KIND.trusted(str(clone))
    for other in (
        Checkpoint(head.origin, 9, head.root),
        Checkpoint(head.origin, 8, bytes(32)),
        Checkpoint("grpo-audit/" + "0" * 32, 8, head.root),
        Checkpoint("elsewhere", 8, head.root),
    ):
        assert KIND.contradiction(said, other) is not None
        assert anchor.judge(name, said, other).judgement is Judgement.BROKEN
    real = GitStatement.model_validate_json(said)
    never = real.model_copy(update={"note": real.note + "— other AAAAAAAA\n"})
    assert anchor.judge(name, never.encode(), head).judgement is Judgement.BROKEN
    first = git(clone, "rev-parse", "main~1")
    assert anchor.judge(name, real.model_copy(update={"commit": first}).encode(), head).judgement is Judgement.BROKEN


@pytest.mark.parametrize(
    "said",
    [b"", b"{}", b"[]", b"\xff", b'{"v":1,"commit":"--upload-pack=x","branch":"b","path":"p","note":"n"}', b"9" * 5000],
)
def test_hostile_statements_are_refused(record: Path, clone: Path, said: bytes) -> None:
    """What is no statement, or names an option instead of a commit, never reaches git."""
    head = head_of(record)
    assert KIND.contradiction(said, head) is not None
    assert KIND.trusted(str(clone)).judge("git/clone#main", said, head).judgement is Judgement.BROKEN


@pytest.mark.parametrize("rest", ["", "nowhere", "{clone}#--force", "{clone}#a..b", "{clone}#a b"])
def test_what_is_no_repository_is_refused(clone: Path, tmp_path: Path, rest: str, monkeypatch) -> None:
    """A missing folder and a malformed branch are ConfigErrors."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        Repository.open(rest.format(clone=clone))


def test_a_file_that_somebody_spoilt_is_noticed(record: Path, clone: Path) -> None:
    """A checkpoint file that is no tree head stops the witness instead of being replaced."""
    file = f"{head_of(record).origin.removeprefix('grpo-audit/')}.checkpoint"
    (clone / file).write_text("nonsense\n")
    git(clone, "add", file)
    git(clone, "commit", "-q", "-m", "spoil")
    with pytest.raises(WitnessUnavailable, match="no tree head"):
        show(record, clone)
