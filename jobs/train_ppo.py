"""Prompts to a policy trained by PPO against the preference model, and no further.

For `ray job submit --working-dir . -- python jobs/train_ppo.py RECIPE [...]`.
"""

import sys

from cai_ray.cli import app

if __name__ == "__main__":
    app(["run", *sys.argv[1:], "--until", "train_ppo"])
