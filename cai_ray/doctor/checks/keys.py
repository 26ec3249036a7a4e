"""Keys of endpoints are named by environment variable, and never travel: each node must have them itself.

Tested in tests/doctor/checks/test_judgements.py.
"""

from cai_ray.doctor.facts import Facts, Finding

CHECK = "endpoint keys"


def judge(facts: Facts) -> Finding:
    names = sorted({name for node in facts.nodes for name in node.keys})
    if not names:
        return Finding(check=CHECK, told="the recipe names none")
    for name in names:
        without = [node for node in facts.nodes if not node.keys.get(name)]
        if without:
            told = f"{name} is not set on {facts.said_of(without)}"
            return Finding(check=CHECK, told=told, mend=f"export {name} before `ray start` on every node")
    return Finding(check=CHECK, told=f"{', '.join(names)}: set on {facts.said_of(facts.nodes)}")
