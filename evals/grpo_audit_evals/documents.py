"""Documents by name and by content: lm-eval's own numbers are positions, and its hash leaves out what matters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from grpo_audit.errors import EvaluationError
from grpo_audit.record.identity import bytes_digest
from grpo_audit.stats.paired import documents_digest

__all__ = ["Document", "document_hash", "documents_digest", "read_documents"]


@dataclass(frozen=True)
class Document:
    """One evaluation document."""

    doc_id: str
    """Field ``id`` of the document, else its position."""
    cluster: str
    """Field ``cluster``: documents that share a source. Else the document is its own cluster."""
    digest: str


def document_hash(doc: Mapping[str, Any]) -> str:
    """SHA-256 over the document as JSON (keys sorted, ASCII, no spaces)."""
    text = json.dumps(doc, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str)
    return bytes_digest(text.encode("ascii"))


def read_documents(task: str, docs: Iterable[Mapping[str, Any]], limit: int | None) -> tuple[Document, ...]:
    """The first ``limit`` documents. Raises EvaluationError when there are none or an ``id`` occurs twice."""
    found: dict[str, Document] = {}
    for position, doc in enumerate(islice(docs, limit)):
        doc_id = str(doc.get("id", position))
        if doc_id in found:
            raise EvaluationError(
                f"Task {task}: two documents have the id {doc_id!r}",
                expected="a different id for each document, or no field 'id' at all",
                next_step="Correct the data file of the task",
            )
        found[doc_id] = Document(doc_id, str(doc.get("cluster", doc_id)), document_hash(doc))
    if not found:
        raise EvaluationError(
            f"Task {task} has no documents",
            next_step="Check its data files and its test_split or validation_split",
        )
    return tuple(found.values())
