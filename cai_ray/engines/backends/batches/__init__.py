"""Provider batch files: requests that are answered hours later, for less."""
