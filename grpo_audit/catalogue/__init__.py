"""The field catalogue: what a release record is asked for, how each field is known, and who asks."""
