"""One page about a run: what was done, what changed, whether it worked."""
