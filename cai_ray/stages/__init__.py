"""Floor 3, stages: a config, pure row functions and `run`. Stages meet only through artifacts on disk."""
