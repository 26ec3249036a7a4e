"""Prompts to revisions and no further, for `ray job submit --working-dir . -- python jobs/revise.py RECIPE [...]`."""

import sys

from cai_ray.cli import app

if __name__ == "__main__":
    app(["run", *sys.argv[1:], "--until", "revise"])
