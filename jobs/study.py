"""Every cell of a study.

For `ray job submit --working-dir . -- python jobs/study.py STUDY`; the same as `cai-ray study`: running it again goes
on where it stopped.
"""

import sys

from cai_ray.cli import app

if __name__ == "__main__":
    app(["study", *sys.argv[1:]])
