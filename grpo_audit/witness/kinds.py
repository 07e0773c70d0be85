"""The kinds of witnesses that are installed: our own, and those of the entry point group ``grpo_audit.witnesses``."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from grpo_audit.errors import ConfigError
from grpo_audit.ledger.notes import NoteError
from grpo_audit.witness.cosignature import CosignerKey
from grpo_audit.witness.directory import DirectoryKind
from grpo_audit.witness.git import GitKind
from grpo_audit.witness.protocol import WitnessKind
from grpo_audit.witness.timestamp import TimeStampKind

GROUP = "grpo_audit.witnesses"
"""Each entry point is an object with the attributes of ``protocol.WitnessKind``."""


@cache
def installed() -> tuple[WitnessKind, ...]:
    """Every kind; ours cannot be replaced. Raises ConfigError for an entry point that cannot be loaded."""
    found: dict[str, WitnessKind] = {kind.name: kind for kind in (DirectoryKind(), TimeStampKind(), GitKind())}
    for point in entry_points(group=GROUP):
        try:
            kind: WitnessKind = point.load()
            found.setdefault(kind.name, kind)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"The witness plug-in {point.value} cannot be used",
                found=str(error),
                next_step="Reinstall or remove it",
            ) from error
    return tuple(found.values())


def by_name(name: str) -> WitnessKind | None:
    """The kind that is stored under this name."""
    return next((kind for kind in installed() if kind.name == name), None)


def split(spec: str) -> tuple[WitnessKind, str]:
    """The kind a specification names, and the rest of it. A bare witness key is one of a directory witness.

    Raises ConfigError that lists what there is.
    """
    prefix, colon, rest = spec.partition(":")
    for kind in installed():
        if colon and rest and prefix == kind.prefix:
            return kind, rest
    if _is_key(spec):
        return DirectoryKind(), spec
    known = ", ".join(f"{kind.prefix}:..." for kind in installed())
    raise ConfigError(
        f"{spec!r} names no witness", expected=f"{known}, or a witness key NAME+KEYHASH+BASE64", next_step="See --help"
    )


def settled(spec: str) -> str:
    """The specification of a witness to ask, whatever the working directory will be. Raises ConfigError."""
    kind, rest = split(spec)
    if not spec.startswith(f"{kind.prefix}:"):
        raise ConfigError(f"{spec!r:.200} is a key to check with, not a witness to ask", expected=f"{kind.prefix}:...")
    return f"{kind.prefix}:{kind.settled(rest)}"


def _is_key(spec: str) -> bool:
    if Path(spec).is_file():
        return True
    try:
        CosignerKey.parse(spec)
    except NoteError:
        return False
    return True
