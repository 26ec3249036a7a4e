"""Room where Ray keeps its session: above 95 per cent it stops spilling objects, and work on the node fails.

Tested in tests/doctor/checks/test_judgements.py.
"""

from cai_ray.doctor.facts import GIB, Facts, Finding

CHECK = "disk"
LEAST, LEAST_SHARE = 5 * GIB, 0.05


def judge(facts: Facts) -> Finding:
    full = [node for node in facts.nodes if node.disk_free < max(LEAST, LEAST_SHARE * node.disk_total)]
    least = min((full or facts.nodes), key=lambda node: node.disk_free)
    told = f"{least.disk_free / GIB:,.0f} GiB free on {facts.said_of(full) if full else least.host}"
    if full:
        return Finding(check=CHECK, told=told, mend="free some, or `ray start --temp-dir` on a larger disk")
    return Finding(check=CHECK, told=f"{told}, the fullest" if len(facts.nodes) > 1 else told)
