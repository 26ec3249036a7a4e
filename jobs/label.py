"""Prompts to AI preference labels and no further.

For `ray job submit --working-dir . -- python jobs/label.py RECIPE [...]`.
"""

import sys

from cai_ray.cli import app

if __name__ == "__main__":
    app(["run", *sys.argv[1:], "--until", "label_comparisons"])
