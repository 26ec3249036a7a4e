"""Outputs that would lie in Ray's copy of a job's working directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai_ray.errors import ConfigError
from cai_ray.pipeline.output import refuse_package_cache

COPY = "session_1/runtime_resources/working_dir_files/_ray_pkg_0123456789abcdef"


@pytest.mark.parametrize("output", ["runs", "./runs", "HERE/runs", "s3://bucket/runs", "file:///srv/runs", "/srv/runs"])
@pytest.mark.parametrize("is_job", [True, False])
def test_a_local_output_in_the_copy_is_refused(
    output: str, is_job: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / COPY if is_job else tmp_path
    here.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(here)
    output = output.replace("HERE", str(here))
    if is_job and not output.startswith(("s3:", "file:", "/srv")):
        with pytest.raises(ConfigError, match=r"Ray's copy of the job's working directory.*absolute folder"):
            refuse_package_cache(output)
    else:
        refuse_package_cache(output)
