"""A git repository as a witness: each head is committed as ``<project id>.checkpoint``.

A commit is remembered by everybody who fetched it. Pushed to a place that refuses forced pushes, it is as good as that
place; in a clone on the same disk it is a convenience. Git is run without hooks, without the user's and the system's
configuration, without prompts.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from grpo_audit.errors import ConfigError
from grpo_audit.ledger.folders import is_project_id
from grpo_audit.ledger.merkle import verify_consistency
from grpo_audit.ledger.notes import Checkpoint, Note, NoteError
from grpo_audit.witness.git_program import TIMEOUT_S, call, git
from grpo_audit.witness.protocol import (
    Judged,
    Judgement,
    Remembered,
    Submission,
    WitnessRefused,
    WitnessUnavailable,
)

KIND = "git"
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_BRANCH = re.compile(r"(?!-)(?!.*(\.\.|//|@\{|\.lock(/|$)))[A-Za-z0-9._/-]{1,200}(?<![/.])")
_MAX_NOTE = 1 << 20


class GitStatement(BaseModel):
    """What is kept: which commit holds the head. ``GitStatement.model_validate_json(s.encode()) == s``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    v: int = 1
    commit: str
    branch: str
    path: str
    note: str
    """The signed checkpoint, as committed."""

    def encode(self) -> bytes:
        """JSON with sorted keys."""
        return self.model_dump_json().encode()

    def problem(self, head: Checkpoint) -> str | None:
        """Why this cannot be about the head."""
        if self.v != 1 or not _COMMIT.fullmatch(self.commit) or self.path != file_name(head.origin):
            return "the statement does not name a commit of this project's checkpoint file"
        try:
            said = Checkpoint.parse(Note.parse(self.note.encode()).text)
        except (NoteError, UnicodeEncodeError) as error:
            return f"the committed file is no tree head: {error}"
        return None if said == head else f"the committed head is another one ({said.size} events)"


def file_name(origin: str) -> str:
    """``<project id>.checkpoint``. Raises WitnessRefused for the origin of another kind of log."""
    project_id = origin.removeprefix("grpo-audit/")
    if not is_project_id(project_id):
        raise WitnessRefused("A foreign log was shown to a witness", found=repr(origin)[:100])
    return f"{project_id}.checkpoint"


@dataclass(frozen=True)
class Repository:
    """A clone and a branch of it: the witness to ask, and the anchor to trust."""

    folder: Path
    branch: str
    push: bool = False
    kind: str = KIND

    @classmethod
    def open(cls, rest: str, *, push: bool = False) -> Repository:
        """From ``FOLDER[#BRANCH]``. Raises ConfigError when it is no repository."""
        folder, _, branch = rest.partition("#")
        path = Path(folder).absolute()
        try:
            git(path, "rev-parse", "--git-dir")
        except WitnessUnavailable as error:
            raise ConfigError(f"{folder!r:.200} is no git repository", found=str(error), expected="a clone") from error
        if not branch:
            branch = git(path, "symbolic-ref", "--short", "HEAD").decode().strip()
        if not _BRANCH.fullmatch(branch):
            raise ConfigError(f"{branch!r:.100} is no branch name")
        return cls(path, branch, push)

    @property
    def name(self) -> str:
        """``git/`` and the folder's name."""
        return f"git/{self.folder.name.removesuffix('.git') or 'repository'}#{self.branch}"

    @property
    def label(self) -> str:
        """The same."""
        return self.name

    def anchor(self) -> str:
        """The clone and its branch."""
        return f"{self.folder}#{self.branch}"

    # --- as a witness -------------------------------------------------------------------------------------------------

    def remembers(self, origin: str) -> int:
        """Size of the head at the tip of the branch."""
        seen = self._newest(origin)
        return seen[1].size if seen else 0

    def see(self, head: Submission) -> bytes:
        """Commit the head on top of the branch, unless the one there is of another history."""
        try:
            shown = Checkpoint.parse(Note.parse(head.note).text)
        except NoteError as error:
            raise WitnessRefused(f"{self.name} was shown no tree head", found=str(error)) from error
        path = file_name(shown.origin)
        with self._locked():
            seen = self._newest(shown.origin)
            if seen is not None:
                self._compare(head, shown, seen[1])
            if seen is not None and seen[1] == shown:
                commit, note = self._commit_of(path), seen[2]
            else:
                commit, note = (
                    self._commit(path, head.note, f"grpo-audit: {shown.size} events of {shown.origin}"),
                    head.note,
                )
            if self.push:
                git(self.folder, "push", "--porcelain", "origin", f"refs/heads/{self.branch}:refs/heads/{self.branch}")
        return GitStatement(commit=commit, branch=self.branch, path=path, note=note.decode()).encode()

    def _compare(self, head: Submission, shown: Checkpoint, remembered: Checkpoint) -> None:
        both = {
            "found": f"shown: {shown.size} events, root {shown.root.hex()}",
            "expected": f"committed: {remembered.size} events, root {remembered.root.hex()}",
        }
        if shown.size < remembered.size:
            raise WitnessRefused(
                f"{self.name} refuses to go back: the record is shorter than what is committed", **both
            )
        if head.old_size != remembered.size:
            raise WitnessUnavailable(f"{self.name} has seen another head meanwhile", **both, next_step="Ask again")
        if not verify_consistency(remembered.size, shown.size, head.proof, remembered.root, shown.root):
            raise WitnessRefused(
                f"{self.name} refuses another history: a record of this project went its own way", **both
            )

    def _newest(self, origin: str) -> tuple[str, Checkpoint, bytes] | None:
        """Tip, head and note at the tip of the branch; None when there is none yet."""
        tip = self._tip()
        if tip is None:
            return None
        note = self._blob(tip, file_name(origin))
        if note is None:
            return None
        try:
            head = Checkpoint.parse(Note.parse(note).text)
        except NoteError as error:
            raise WitnessUnavailable(
                f"{file_name(origin)} in {self.name} is no tree head",
                found=str(error),
                next_step="Find out who changed it",
            ) from error
        return tip, head, note

    def _tip(self) -> str | None:
        try:
            out = git(self.folder, "rev-parse", "--verify", "--quiet", f"refs/heads/{self.branch}^{{commit}}")
        except WitnessUnavailable:
            return None
        return out.decode().strip()

    def _commit_of(self, path: str) -> str:
        """The commit that brought the file at the tip."""
        return git(self.folder, "log", "-1", "--format=%H", f"refs/heads/{self.branch}", "--", path).decode().strip()

    def _blob(self, commit: str, path: str) -> bytes | None:
        listed = git(self.folder, "ls-tree", "-z", "--full-tree", commit, "--", path)
        if not listed:
            return None
        fields = listed.split(b"\t", 1)[0].split()
        if len(fields) != 3 or fields[1] != b"blob":
            raise WitnessUnavailable(f"{path} in {self.name} is no file")
        name = fields[2].decode()
        if int(git(self.folder, "cat-file", "-s", name)) > _MAX_NOTE:
            raise WitnessUnavailable(f"{path} in {self.name} is too large for a tree head")
        return git(self.folder, "cat-file", "blob", name)

    def _commit(self, path: str, note: bytes, message: str) -> str:
        """One more commit on the branch; the working tree and the index of the clone are left alone."""
        tip = self._tip()
        blob = git(self.folder, "hash-object", "-w", "--stdin", given=note).decode().strip()
        with tempfile.TemporaryDirectory(prefix="grpo-audit-git-") as scratch:
            index = {"GIT_INDEX_FILE": str(Path(scratch) / "index")}
            if tip is not None:
                git(self.folder, "read-tree", tip, more=index)
            git(self.folder, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", more=index)
            tree = git(self.folder, "write-tree", more=index).decode().strip()
        parents = ["-p", tip] if tip is not None else []
        commit = git(self.folder, "commit-tree", tree, *parents, "-m", message).decode().strip()
        # compare-and-swap: the branch must still be where we looked
        git(self.folder, "update-ref", f"refs/heads/{self.branch}", commit, tip or "0" * len(commit))
        return commit

    @contextmanager
    def _locked(self) -> Iterator[None]:
        git_dir = self.folder / git(self.folder, "rev-parse", "--git-dir").decode().strip()
        lock = FileLock(git_dir / "grpo-audit.lock")
        try:
            lock.acquire(timeout=TIMEOUT_S)
        except (Timeout, OSError) as error:
            raise WitnessUnavailable(
                f"{self.name} cannot be locked", found=str(error), next_step="Ask again"
            ) from error
        try:
            yield
        finally:
            lock.release()

    # --- as an anchor -------------------------------------------------------------------------------------------------

    def judge(self, name: str, statement: bytes, head: Checkpoint) -> Judged:
        """Whether this repository has the commit on its branch, with exactly this head in it."""
        try:
            said = GitStatement.model_validate_json(statement)
            problem = said.problem(head)
        except (ValidationError, WitnessRefused) as error:
            return Judged(Judgement.BROKEN, f"no statement of a git witness: {' '.join(str(error).split())[:200]}")
        if problem is not None:
            return Judged(Judgement.BROKEN, problem)
        claims_us = Judgement.BROKEN if name == self.name else Judgement.OTHER
        try:
            if not self._contains(said.commit):
                return Judged(claims_us, f"commit {said.commit} is not on branch {self.branch} of {self.folder}")
            if self._blob(said.commit, said.path) != said.note.encode():
                return Judged(Judgement.BROKEN, f"commit {said.commit} holds another head")
            at = int(git(self.folder, "show", "-s", "--format=%ct", said.commit).decode().strip())
        except (WitnessUnavailable, ValueError) as error:
            return Judged(Judgement.BROKEN, str(error))
        return Judged(Judgement.HOLDS, f"commit {said.commit} on {self.branch}", _utc(at))

    def _contains(self, commit: str) -> bool:
        tip = self._tip()
        if tip is None or call(self.folder, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
            return False
        return call(self.folder, "merge-base", "--is-ancestor", commit, tip).returncode == 0

    def memory(self, origin: str) -> Remembered | None:
        """The head at the tip of the branch."""
        try:
            seen = self._newest(origin)
        except WitnessRefused:
            return None
        if seen is None:
            return None
        at = git(self.folder, "show", "-s", "--format=%ct", self._commit_of(file_name(origin))).decode().strip()
        return Remembered(seen[1], _utc(int(at)))


class GitKind:
    """``git:CLONE[#BRANCH]``; ``git:push:CLONE[#BRANCH]`` pushes to ``origin`` after each commit."""

    name = KIND
    prefix = "git"

    def settled(self, rest: str) -> str:
        """The absolute path."""
        push = "push:" if rest.startswith("push:") else ""
        folder, hash_, branch = rest.removeprefix("push:").partition("#")
        return f"{push}{Path(folder).absolute()}{hash_}{branch}"

    def witness(self, rest: str) -> Repository:
        """The clone to commit to."""
        return self._open(rest)

    def trusted(self, rest: str) -> Repository:
        """The clone to look into: fetch it first."""
        return self._open(rest)

    def contradiction(self, statement: bytes, head: Checkpoint) -> str | None:
        """A commit of something else."""
        try:
            return GitStatement.model_validate_json(statement).problem(head)
        except (ValidationError, WitnessRefused) as error:
            return f"no statement of a git witness: {' '.join(str(error).split())[:200]}"

    def _open(self, rest: str) -> Repository:
        return Repository.open(rest.removeprefix("push:"), push=rest.startswith("push:"))


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
