"""Models that run in the worker itself, by transformers: classifiers, and models that are looked into."""
