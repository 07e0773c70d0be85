"""One reward source: its function in a process of its own, its identity, and what a failing call means for each row."""

from __future__ import annotations

import difflib
import hashlib
import json
import pickle
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from grpo_audit.config.sections import RewardConfig
from grpo_audit.errors import RewardError
from grpo_audit.record.identities import RewardIdentity
from grpo_audit.rewards.process import CallFailed, Loaded, LoadFailed, RewardProcess
from grpo_audit.rewards.signature import GIVEN

RETRY_CAP: Final = 4
"""When a call on many rows fails, the rows are tried one by one, each with the full time limit, for at most this many
time limits together (and the row that is under way). Rows that are not reached are errors. So a source whose rows all
hang holds a step up for six time limits, not for one a row."""

STARTUP_LIMIT_S: Final = 120.0
"""Seconds a source may take to start and import; large libraries take a while on a cold disk."""


@dataclass(frozen=True)
class Outcome:
    """What one source says of one row: a value, None where it does not apply, or an error."""

    value: float | None
    error: str | None = None


@dataclass(frozen=True)
class Batch:
    """Rows to score, all lists of the same length."""

    prompts: Sequence[str]
    completions: Sequence[str]
    columns: Mapping[str, Sequence[object]]

    def __post_init__(self) -> None:
        lengths = {"prompts": len(self.prompts)} | {name: len(values) for name, values in self.columns.items()}
        for name, length in lengths.items():
            if length != len(self.completions):
                raise ValueError(f"{name} has {length} rows, completions has {len(self.completions)}")

    def row(self, index: int) -> Batch:
        """One row as a batch of its own."""
        columns = {name: [values[index]] for name, values in self.columns.items()}
        return Batch([self.prompts[index]], [self.completions[index]], columns)

    def request(self, do: str = "score", **more: object) -> bytes:
        """The message to a reward process. Pickled here, by us, from plain values; never the other way round."""
        columns = {name: list(values) for name, values in self.columns.items()}
        content = {**more, "do": do, "prompts": list(self.prompts), "completions": list(self.completions)}
        return pickle.dumps({**content, "columns": columns}, protocol=pickle.HIGHEST_PROTOCOL)


class RewardSource:
    """A configured source. Constructing it starts nothing; ``start`` loads the function."""

    def __init__(
        self, config: RewardConfig, base_dir: Path, *, startup_limit_s: float = STARTUP_LIMIT_S, log_fd: int = 2
    ) -> None:
        self.config = config
        self._base_dir = base_dir
        self._startup_limit_s = startup_limit_s
        self._process = RewardProcess(
            config.source, base_dir, startup_limit_s=startup_limit_s, log_fd=log_fd, options=config.options
        )
        self._loaded: Loaded | None = None
        self._texts: dict[str, bytes] = {}

    def start(self) -> None:
        """Load the function and read its source. Raises RewardError."""
        try:
            loaded = self._process.start()
        except LoadFailed as error:
            raise _load_error(self.config, self._base_dir, error) from error
        names = ["", *loaded.modules]
        for name, (path, digest) in zip(names, loaded.files().items(), strict=True):
            self._texts[name] = Path(path).read_bytes()
            if "sha256:" + hashlib.sha256(self._texts[name]).hexdigest() != digest:
                raise RewardError(
                    f"Reward {self.config.name}: {path} changed while it was being loaded", next_step="Start again"
                )
        self._loaded = loaded

    @property
    def identity(self) -> RewardIdentity:
        """For the record. What the recipe leaves out is what the source declares of itself."""
        config, loaded = self.config, self._known()
        declared = loaded.declared
        return RewardIdentity(
            name=config.name,
            source=config.source,
            role=config.role,
            kind=config.kind or declared.get("kind", "rule"),
            weight=config.weight,
            version=config.version or declared.get("version", "1"),
            domain=config.domain or declared.get("domain"),
            time_limit_s=config.time_limit_s,
            source_digest=loaded.digest,
            source_file=loaded.file.name,
            options=loaded.options,
            facts=loaded.facts,
            modules=loaded.modules,
        )

    @property
    def texts(self) -> dict[str, bytes]:
        """The whole source file under the source's name; files loaded with it under ``NAME/FILE``."""
        name = self.config.name
        return {f"{name}/{file}" if file else name: text for file, text in self._texts.items()}

    def _known(self) -> Loaded:
        if self._loaded is None:
            raise RewardError(f"Reward {self.config.name} was not started")
        return self._loaded

    def check_columns(self, names: Iterable[str]) -> None:
        """Raises RewardError when the function needs an argument that is neither a column of the prompt set nor an
        option, or when an option has the name of a column."""
        known, loaded = sorted(names), self._known()
        for option in self.config.options:
            if option in known:
                raise RewardError(
                    f"Reward {self.config.name}: {option!r} is an option and a column of the prompt set as well",
                    expected="one of the two, or nobody knows which one counts",
                    next_step=f"Give the column another name: prompts.fields: {{NEW_NAME: {option}}}",
                )
        for argument in loaded.required:
            if argument in known or argument in loaded.options or argument in GIVEN:
                continue
            if argument in loaded.keyword_only:
                raise RewardError(
                    f"Reward {self.config.name} needs the option {argument!r}",
                    found=f"the options {', '.join(self.config.options)}" if self.config.options else "no options",
                    next_step=f"Give it in the recipe, below this reward: options: {{{argument}: VALUE}}",
                )
            near = difflib.get_close_matches(argument, known, n=1)
            raise RewardError(
                f"Reward {self.config.name} needs the argument {argument!r}, and the prompt set has no such column",
                found=f"the columns {', '.join(known)}" if known else "no columns besides the prompt",
                next_step=f"Map it in the recipe: prompts.fields: {{{argument}: {near[0] if near else 'COLUMN'}}}",
            )

    def score(self, batch: Batch, request: bytes) -> list[Outcome]:
        """One outcome a row; never raises because of user code. ``request`` is ``batch.request()``, made once for all
        sources."""
        try:
            return self._call(request)
        except CallFailed as failure:
            if len(batch.completions) == 1:
                return [Outcome(None, str(failure))]
        return self._row_by_row(batch)

    def ask(self, batch: Batch) -> list[Outcome]:
        """One call and no second try: one outcome a row. Raises CallFailed when the call as a whole failed."""
        return self._call(batch.request())

    def ask_in_threads(self, batch: Batch, threads: int) -> list[list[Outcome]]:
        """The function called on the batch from so many threads of its process at once: the outcomes of each thread.
        Raises CallFailed."""
        request = batch.request(threads=threads)
        answers = self._process.call(request, self.config.time_limit_s, self._known().files())["threads"]
        rows = len(batch.completions)
        return [[Outcome(None, item["failure"])] * rows if "failure" in item else _outcomes(item) for item in answers]

    def examples(self, batch: Batch) -> list[Any] | None:
        """What the source's module says is right and wrong for each row (see ``docs/probes.md``); None when it says
        nothing. Not believed: whoever asks has to check it. Raises CallFailed."""
        if not self._known().has_examples:
            return None
        request = batch.request("examples")
        found = self._process.call(request, self.config.time_limit_s, self._known().files())["examples"]
        return list(found)

    def wake(self) -> None:
        """Start the process again where the last call ended it, so that the next call takes no longer than it does.
        Raises CallFailed."""
        if self._process.pid is None:
            try:
                self._process.start(self._known().files())
            except LoadFailed as error:
                raise CallFailed(f"could not be loaded again: {error}") from error

    def forget(self) -> None:
        """End the process; the next call starts another one, with nothing in its memory."""
        self._process.kill()

    @property
    def loaded(self) -> Loaded:
        """What was found when the function was loaded. Raises RewardError before ``start``."""
        return self._known()

    def close(self) -> None:
        """Kill the process."""
        self._process.close()

    def _call(self, request: bytes) -> list[Outcome]:
        answer: dict[str, Any] = self._process.call(request, self.config.time_limit_s, self._known().files())
        return _outcomes(answer)

    def _row_by_row(self, batch: Batch) -> list[Outcome]:
        """So that only the guilty rows become errors."""
        cap = RETRY_CAP * self.config.time_limit_s
        deadline = time.monotonic() + cap
        outcomes: list[Outcome] = []
        for index in range(len(batch.completions)):
            if time.monotonic() > deadline:
                outcomes.append(Outcome(None, f"not scored: trying the rows one by one took longer than {cap:g} s"))
                continue
            try:
                outcomes += self._call(batch.row(index).request())
            except CallFailed as failure:
                outcomes.append(Outcome(None, str(failure)))
        return outcomes


def _outcomes(answer: Mapping[str, Any]) -> list[Outcome]:
    return [Outcome(value, answer["errors"].get(str(index))) for index, value in enumerate(answer["values"])]


def _load_error(config: RewardConfig, base_dir: Path, error: LoadFailed) -> RewardError:
    name, _, function = config.source.rpartition(":")
    what = f"Reward {config.name} ({config.source})"
    match error.problem:
        case "no such file":
            near = difflib.get_close_matches(Path(name).name, [item.name for item in base_dir.glob("*.py")], n=1)
            hint = f"The nearest file there is {near[0]}" if near else "Paths are relative to the recipe"
            return RewardError(f"{what}: there is no file {error.message}", next_step=hint)
        case "no such function":
            known: list[str] = json.loads(error.message)
            near = difflib.get_close_matches(function, known, n=1)
            return RewardError(
                f"{what}: {name} has no function {function}",
                expected=f"one of {', '.join(known[:8])}" if known else "",
                next_step=f"The nearest is {near[0]}" if near else "",
            )
        case "bad option":
            parts: dict[str, str] = json.loads(error.message)
            return RewardError(f"{what}: {parts.pop('what')}", **parts)
        case "not callable":
            return RewardError(f"{what} is no function", found=f"a value of type {error.message}")
        case "no source":
            return RewardError(
                f"{what} has no Python source file, so it could not be recorded",
                found=error.message,
                expected="a function written in a .py file",
            )
        case _:
            return RewardError(f"{what} cannot be imported", found=error.message, next_step=_import_hint(error.message))


def _import_hint(message: str) -> str:
    if "relative import" in message:
        return "Import modules beside the file by their name, without the dot"
    if "ModuleNotFoundError" in message:
        return "Install the module, or put it beside the recipe"
    return "Correct the file and start again"
