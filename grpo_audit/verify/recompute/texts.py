"""The texts recorded as artifacts: reward sources, the prompt index, the evaluation protocol."""

from __future__ import annotations

from grpo_audit.record.events import Artifact
from grpo_audit.verify.recompute.stream import Item

_WANTED = ("reward source", "second verifier", "prompt index", "evaluation protocol")


class Texts:
    """By role and name. The first one recorded counts: what comes later is not what was registered."""

    def __init__(self) -> None:
        self._digests: dict[tuple[str, str], str] = {}
        self._texts: dict[tuple[str, str], bytes] = {}
        self.erased: list[str] = []
        """Names of those whose text is gone."""

    def take(self, item: Item) -> None:
        """Keep an artifact's text, if level L1 needs it."""
        payload = item.event.payload
        if not isinstance(payload, Artifact) or payload.role not in _WANTED:
            return
        key = (payload.role, payload.name)
        if key in self._digests:
            return
        self._digests[key] = payload.digest
        if "text" in item.content:
            self._texts[key] = item.content["text"]
        elif "text" in item.event.content:
            self.erased.append(payload.name)

    def names(self, role: str) -> list[str]:
        """Names recorded under a role."""
        return [name for known, name in self._digests if known == role]

    def digest(self, role: str, name: str) -> str | None:
        """Digest as recorded; None when there is no such artifact."""
        return self._digests.get((role, name))

    def get(self, role: str, name: str) -> bytes | None:
        """The text; None when it is erased, kept elsewhere or was never recorded."""
        return self._texts.get((role, name))
