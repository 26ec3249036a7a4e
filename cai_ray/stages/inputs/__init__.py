"""Prompts: where they come from, and new ones written from them."""
