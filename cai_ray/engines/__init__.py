"""Floor 2, machines: Ray actors, vLLM, storage. They never know the words "constitution" or "preference"."""
