"""``python -m grpo_audit``."""

from grpo_audit.cli import main

main()
