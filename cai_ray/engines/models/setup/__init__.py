"""What can be wrong with a model is found in its files, before an engine starts."""
