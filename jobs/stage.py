"""A recipe up to one stage and no further, e.g. `python jobs/stage.py label_comparisons RECIPE [--set key=value ...]`.

For `ray job submit --working-dir . -- python jobs/stage.py STAGE RECIPE`; the same as `cai-ray run --until STAGE`.
"""

import sys

from cai_ray.cli import app

if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python jobs/stage.py STAGE RECIPE [options of `cai-ray run`]")
    stage, *arguments = sys.argv[1:]
    app(["run", *arguments, "--until", stage])
