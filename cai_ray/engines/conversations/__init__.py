"""The conversation engine: thousands of row dialogues at once in each engine actor, each row ending exactly once."""
