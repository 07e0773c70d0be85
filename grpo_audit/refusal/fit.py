"""``python -m grpo_audit.refusal.fit``: derive the shipped weights again from the corpus."""

from __future__ import annotations

from grpo_audit.refusal.classifier import WEIGHTS_FILE, Classifier, fit
from grpo_audit.refusal.corpus import DATA, SEED, corpus
from grpo_audit.refusal.text import normalised

SOURCE = f"the project's own corpus, seed {SEED}"


def derive() -> Classifier:
    """The statistical half, fitted on the project's own corpus. Needs scikit-learn."""
    rows = corpus()
    return fit([normalised(row.text) for row in rows], [row.refusal for row in rows], source=SOURCE)


def main() -> None:
    """Write the weights into the package."""
    found = derive()
    path = DATA / WEIGHTS_FILE
    path.write_text(found.to_json(), encoding="utf-8", newline="\n")
    print(f"{len(found.weights)} terms in {path}")


if __name__ == "__main__":
    main()
