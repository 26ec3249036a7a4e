"""What critiques say, and what became of the answers."""
