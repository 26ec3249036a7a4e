"""What a conversation asks: vLLM, an endpoint, a classifier, an embedder, a script."""
