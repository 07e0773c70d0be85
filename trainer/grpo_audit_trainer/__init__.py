"""The instrumented GRPO trainer."""
