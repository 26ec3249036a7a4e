"""A preference model kept up to date while PPO runs."""
