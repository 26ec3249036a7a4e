"""The PPO loop: rollouts, scores, lessons, guards, snapshots."""
