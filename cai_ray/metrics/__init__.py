"""Pure statistics over rows: no Ray, no vLLM."""
