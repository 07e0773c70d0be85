"""These tests need the real vLLM, in an environment of its own: ``make test-vllm``. Elsewhere they are left out."""

from __future__ import annotations

from importlib import metadata

collect_ignore_glob = [] if "vllm" in metadata.packages_distributions() else ["test_*.py"]
