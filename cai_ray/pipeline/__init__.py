"""From a recipe to its steps, and from its steps to a finished run."""
