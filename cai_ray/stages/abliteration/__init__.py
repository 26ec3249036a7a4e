"""A model without its direction of refusal, and its reverse: what later stages study. Research use."""
