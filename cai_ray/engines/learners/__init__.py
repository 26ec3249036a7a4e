"""PPO's learners: Ray Train workers that hold policy, value model and reference, and update them."""
