"""A run as a job on a Ray cluster: what travels there, its name, its log and its end."""
