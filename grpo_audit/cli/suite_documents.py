"""The documents of a loaded suite as texts to look for in prompts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from grpo_audit.contamination.documents import Document

if TYPE_CHECKING:
    from grpo_audit_evals.suite import Suite


def suite_documents(suite: Suite) -> Iterator[Document]:
    """Every document of every task, in the plan's order, with the id that the record uses for it.

    Its text is the question as the task asks it: without few-shot examples, chat template, system prompt, answer and
    target. Where each choice has a prompt of its own, all of them.
    """
    for item in suite.tasks:
        for document, known in zip(item.task.eval_docs, item.documents, strict=False):  # the suite may have a limit
            yield Document(item.name, known.doc_id, _text(item.task, document))


def _text(task: Any, document: Any) -> str:
    text = task.doc_to_text(document)
    if isinstance(text, int):  # as winogrande: the number of the choice that is the prompt
        return "\n".join(map(str, task.doc_to_choice(document)))
    return text if isinstance(text, str) else "\n".join(map(str, text)) if isinstance(text, list) else str(text)
