"""The whole pipeline, for `ray job submit --working-dir . -- python jobs/pipeline.py RECIPE [--set key=value ...]`.

The same as `cai-ray run`: running it again goes on where it stopped, so a submission may be repeated.
"""

import sys

from cai_ray.cli import app

if __name__ == "__main__":
    app(["run", *sys.argv[1:]])
