"""Jinja templates of the report and the model card."""
