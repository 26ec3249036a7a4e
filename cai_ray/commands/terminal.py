"""What every command writes on: the terminal, and a log for what takes time.

Tested in tests/cluster/test_exit_codes.py.
"""

from __future__ import annotations

import logging
import sys

from rich.console import Console
from rich.logging import RichHandler

console = Console()


def start_logging() -> None:
    """Log lines beside the live board on a terminal, plain ones elsewhere."""
    if sys.stderr.isatty():
        from cai_ray.progress.board import terminal

        handler: logging.Handler = RichHandler(console=terminal, show_path=False, markup=False)
        logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    else:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for chatty in ("httpx", "httpcore", "ray", "datasets", "urllib3", "filelock"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
