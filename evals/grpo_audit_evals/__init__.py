"""Evaluation through lm-eval."""
