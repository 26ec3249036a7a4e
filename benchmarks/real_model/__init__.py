"""The pipeline and its parts on a real model and real text: `python -m benchmarks.real_model PART`."""
