"""One script per claim of the README. `make bench` runs them all; each writes `results/<name>.json`."""
