"""Train with GRPO and leave a tamper-evident, re-derivable record behind.

This package is the record and everything that reads it. It never imports torch (its ``cli`` aside).
"""

__version__ = "0.1.0"
