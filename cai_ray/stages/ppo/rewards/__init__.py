"""Where PPO's reward comes from: one file per kind, behind the protocol of `run_state.Reward`."""
