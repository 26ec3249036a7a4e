"""Pairs, AI labels on them, and what is trained on the labels: preference model, DPO."""
