"""The field catalogue: everything a record should know of a run, each with its evidence, or the reason why not."""
