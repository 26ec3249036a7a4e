"""Every variant of an ablation on a recipe.

For `ray job submit --working-dir . -- python jobs/ablate.py RECIPE ABLATION`; the same as `cai-ray ablate`: running it
again goes on where it stopped.
"""

import sys

from cai_ray.cli import app

if __name__ == "__main__":
    app(["ablate", *sys.argv[1:]])
