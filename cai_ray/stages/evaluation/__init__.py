"""Policies answer held-out prompts; scorers, judges, matches and questions say how well."""
