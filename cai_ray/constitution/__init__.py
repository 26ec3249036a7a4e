"""Constitutions: principles with ids, where they come from, which one a round is asked with. Pure."""
