"""What is wrong with a file of clusters/, by the tools and schemas of those who read it. Nothing is started."""

from __future__ import annotations

import copy
import gzip
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from jsonschema import Draft202012Validator

from cai_ray.cli import app
from tests.cluster_files import cloud_schemas

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "clusters"
KUBERAY = ROOT.parent / "shared/data/kuberay"
SKYPILOT = ROOT / "tests/fixtures/skypilot-0.14.1.json"
KUBERNETES = "1.37"
# Plain strings in KubeRay's schema; its operator knows these.
SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
HEAD_ONLY = {"--head", "--port", "--node-ip-address", "--block", "--include-dashboard", "--dashboard-host"}
RAY_COMMAND = re.compile(r"(?<![\w/.-])ray (start|symmetric-run|get-auth-token|health-check|list|stop)\b([^;|\n)]*)")
OWN_COMMAND = re.compile(r"(?<![\w/.`-])cai-ray ([a-z-]+)( [^;|&>\])\n]*?--[^;|&>\])\n]*)")
SBATCH_LINE = re.compile(r"^#SBATCH (--[a-z-]+)", re.MULTILINE)
SBATCH = {"job-name", "nodes", "ntasks-per-node", "exclusive", "requeue", "open-mode", "output", "time"}


def complaints(name: str, text: str) -> list[str]:
    """All that is wrong with `text` as the file `name` of clusters/."""
    found = [*_ray_commands(name, text), *_own_commands(name, text)]
    if name == "Dockerfile":
        return found + _tool("hadolint", "-", text)
    if name in ("local.sh", "slurm.sbatch"):
        options = [f"no option of sbatch: {o}" for o in SBATCH_LINE.findall(text) if o.removeprefix("--") not in SBATCH]
        return found + options + _shell(text)
    documents = list(yaml.safe_load_all(text))
    if name.startswith("kuberay"):
        return found + [complaint for document in documents for complaint in _kubernetes(document)]
    if name == "skypilot.yaml":
        return found + _skypilot(documents[0])
    return found + _ray_up(documents[0])


def _against(schema: dict[str, Any], value: Any) -> list[str]:
    errors = Draft202012Validator(schema).iter_errors(value)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


def _tool(name: str, *arguments: str) -> list[str]:
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed; make setup does it")
    done = subprocess.run([found, *arguments[:-1]], input=arguments[-1], capture_output=True, text=True)
    return [done.stdout + done.stderr] if done.returncode else []


def _shell(script: str) -> list[str]:
    return _tool("shellcheck", "--shell=bash", "-", script)


def _ray_up(config: dict[str, Any]) -> list[str]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except Exception as error:  # of several kinds, and here each is a finding
        return [f"{type(error).__name__}: {error}"]
    node, provider = cloud_schemas.OF[config["provider"]["type"]]
    found = _against(provider, config["provider"])
    for name, kind in config["available_node_types"].items():
        found += [f"{name}: {complaint}" for complaint in _against(node, kind["node_config"])]
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    return found + _shell("#!/bin/bash\n" + "\n".join(commands) + "\n")


def _skypilot(task: dict[str, Any]) -> list[str]:
    schemas = json.loads(SKYPILOT.read_text())
    found = _against(schemas["task"], task) + _against(schemas["resources"], task["resources"])
    recovery = set(task["resources"]["job_recovery"]) - {"strategy", "max_restarts_on_errors", "recover_on_exit_codes"}
    return found + [f"job_recovery: {key}" for key in recovery] + _shell(task["run"])


def _kubernetes(document: dict[str, Any]) -> list[str]:
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="make setup installs it")

    def kubernetes(resource: dict[str, Any]) -> list[str]:
        try:
            kubernetes_validate.validate(resource, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            return [f"{error.path}: {error.message}"]
        return []

    if document["apiVersion"] == "v1":
        return kubernetes(document)
    found = _against(kuberay_schema(document["kind"]), document)
    spec = document["spec"]
    if "submissionMode" in spec and spec["submissionMode"] not in SUBMISSION_MODES:
        found.append(f"submissionMode {spec['submissionMode']!r} is none of {SUBMISSION_MODES}")
    cluster = spec.get("rayClusterSpec", spec)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": group["template"]["spec"]}
        found += kubernetes(pod)
    return found


@cache
def kuberay_schema(kind: str) -> dict[str, Any]:
    """The schema of KubeRay's own resource definition; it lets unknown keys pass, here they do not."""
    file = KUBERAY / f"{kind}-v1.7.0.schema.json.gz"
    if not file.exists():
        pytest.skip("KubeRay's schemas are not in ../shared/data/kuberay")
    schema: dict[str, Any] = json.loads(gzip.decompress(file.read_bytes()))
    schema["properties"].pop("status")
    _close(schema["properties"]["spec"])
    return schema


def _close(schema: Any) -> None:
    if isinstance(schema, list):
        for part in schema:
            _close(part)
    if not isinstance(schema, dict):
        return
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("anyOf", None)
        schema["type"] = ["integer", "string"]
    is_open = schema.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in schema and "additionalProperties" not in schema and not is_open:
        schema["additionalProperties"] = False
    for part in list(schema.values()):
        _close(part)


def _ray_commands(name: str, text: str) -> Iterator[str]:
    """Commands of Ray's that it does not have, and options that they do not take."""
    from ray.scripts.scripts import cli

    for command, rest in RAY_COMMAND.findall(_code(text)):
        known = {option for parameter in cli.commands[command].params for option in parameter.opts}
        if command == "symmetric-run":  # its other options go to `ray start` on every node
            known |= {o for parameter in cli.commands["start"].params for o in parameter.opts} - HEAD_ONLY
        for option in re.findall(r"--[a-z][a-z-]*", rest.partition(" -- ")[0]):
            if option not in known:
                yield f"{name}: ray {command} has no {option}"


def _own_commands(name: str, text: str) -> Iterator[str]:
    """The same of cai-ray's."""
    commands: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    for command, rest in OWN_COMMAND.findall(_code(text)):
        if command not in commands:
            yield f"{name}: cai-ray has no {command}"
            continue
        known = {option for parameter in commands[command].params for option in parameter.opts}
        for option in re.findall(r"--[a-z][a-z-]*", rest):
            if option not in known:
                yield f"{name}: cai-ray {command} has no {option}"


def _code(text: str) -> str:
    """Without lines that are comments; a line that goes on is one."""
    return "\n".join(line for line in text.replace("\\\n", " ").splitlines() if not line.lstrip().startswith("#"))
