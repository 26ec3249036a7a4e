"""How weights travel from learners to rollout engines, in buckets."""
