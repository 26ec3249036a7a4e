"""Critique and revision of answers, round by round."""
