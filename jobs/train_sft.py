"""Prompts to an SL-CAI policy and no further.

For `ray job submit --working-dir . -- python jobs/train_sft.py RECIPE [...]`.
"""

import sys

from cai_ray.cli import app

if __name__ == "__main__":
    app(["run", *sys.argv[1:], "--until", "train_sft"])
