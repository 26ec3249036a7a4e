"""Models that are named by a hub id can be had on every node: from its cache, or from the hub.

Tested in tests/doctor/checks/test_judgements.py.
"""

from cai_ray.doctor.facts import Facts, Finding

CHECK = "hub"


def judge(facts: Facts) -> Finding:
    names = sorted({name for node in facts.nodes for name in node.hub})
    if not names:
        return Finding(check=CHECK, told="no model is named by a hub id")
    for name in names:
        failed = [node for node in facts.nodes if node.hub.get(name)]
        if failed:
            return Finding(
                check=CHECK,
                told=f"{name}: {failed[0].hub[name]} on {facts.said_of(failed)}",
                mend="set HF_TOKEN for a gated model, HF_ENDPOINT for a mirror, or name a folder that all nodes share",
            )
    return Finding(check=CHECK, told=f"{', '.join(names)}: can be had on {facts.said_of(facts.nodes)}")
