"""TRL 1.12 in an environment of its own: ours has a later TRL, which has no PPO trainer any more."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import venv
from pathlib import Path

from cai_ray.engines.models.files import cache_root

HERE = Path(__file__).parent
TORCH = HERE.parent / "requirements" / "torch-cpu.lock"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
PACKAGES = HERE / "requirements-trl-ppo.txt"


def interpreter() -> Path:
    """Its python. The environment is installed now unless it is there and current (about two minutes)."""
    folder = cache_root() / "benchmarks" / "trl-1.12"
    python, stamp = folder / "bin" / "python", folder / "installed"
    wanted = hashlib.sha256(TORCH.read_bytes() + PACKAGES.read_bytes()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"installing TRL's environment into {folder}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        _install(python, folder)
        stamp.write_text(wanted)
    return python


def _install(python: Path, folder: Path) -> None:
    """As `make setup` installs ours: torch from the sources that pip knows, or else from PyTorch's own."""
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q", "--no-deps"]
    torch = ["--require-hashes", "-r", str(TORCH)]
    if subprocess.run([*pip, *torch]).returncode:
        subprocess.run([*pip, "--index-url", TORCH_INDEX, *torch], check=True)
    subprocess.run([*pip, "-r", str(PACKAGES)], check=True)
