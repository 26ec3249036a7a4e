"""vLLM engines as Ray actors that sample for PPO, and the proof that they hold the learners' weights."""
