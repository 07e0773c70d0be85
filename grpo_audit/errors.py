"""Every error this project raises on purpose, and the exit code each one ends the program with.

A user-fixable error is one line: what, found, expected, next step. No traceback is shown for it.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How the program ends. The same table stands in the README; each row has a test."""

    OK = 0
    VERIFICATION_FAILED = 1  # the record was edited, cut, reordered or does not match its artifacts
    BAD_INPUT = 2  # configuration, prompts, model, rewards, command line
    UNSEALED = 3  # the record is intact, but the run is unfinished: nothing vouches for its end
    REGRESSED = 4  # compare: a behaviour regressed beyond its margin
    STORAGE = 5  # disk full, read-only folder, record locked, record from a newer version
    TRAINING_STOPPED = 6  # training could not go on (out of memory, non-finite loss, sampler and scorer disagree)
    GATE_FAILED = 7  # gate: a release condition does not hold, or its figure is missing
    INTERRUPTED = 130  # Ctrl-C; the run can be resumed


class GrpoAuditError(Exception):
    """Base class. ``str(error)`` is one line for the user."""

    exit_code: ExitCode = ExitCode.BAD_INPUT

    def __init__(self, what: str, *, found: str = "", expected: str = "", next_step: str = "") -> None:
        self.what = what
        self.found = found
        self.expected = expected
        self.next_step = next_step
        parts = [what]
        if found:
            parts.append(f"found {found}")
        if expected:
            parts.append(f"expected {expected}")
        line = "; ".join(part.strip().rstrip(".") for part in parts)
        if next_step:
            line += f"{'' if line.endswith('?') else '.'} {next_step.strip().rstrip('.')}"
        super().__init__(" ".join(line.split()) + ".")


class ConfigError(GrpoAuditError):
    """The recipe, an override or a combination of options is wrong."""


class ModelError(GrpoAuditError):
    """The model folder or its tokenizer cannot be used."""


class PromptError(GrpoAuditError):
    """The prompt set cannot be read, is empty or has a malformed row."""


class RewardError(GrpoAuditError):
    """A reward source cannot be loaded, or failed on every row of a step."""


class EvaluationError(GrpoAuditError):
    """A suite, a task or its metric cannot be used."""


class ComparisonError(GrpoAuditError):
    """Two evaluations were not made under the same protocol, so they may not be compared."""


class StorageError(GrpoAuditError):
    """The record cannot be written or opened: full disk, read-only folder, lock, newer schema."""

    exit_code = ExitCode.STORAGE


class TrainingError(GrpoAuditError):
    """Training cannot go on: out of memory, non-finite loss, sampler and scorer disagree."""

    exit_code = ExitCode.TRAINING_STOPPED


class VerificationError(GrpoAuditError):
    """The record does not hold."""

    exit_code = ExitCode.VERIFICATION_FAILED
