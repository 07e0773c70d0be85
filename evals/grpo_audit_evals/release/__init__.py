"""Tasks of the release suite that lm-eval lacks: their documents from published files, and their scorers."""
