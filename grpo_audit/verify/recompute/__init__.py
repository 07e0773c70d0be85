"""Level L1: what the record says is computed again, on a CPU and without torch."""
