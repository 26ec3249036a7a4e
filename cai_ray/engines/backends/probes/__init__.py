"""A model that is looked into, as a backend."""
