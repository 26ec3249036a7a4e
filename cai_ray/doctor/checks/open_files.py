"""Ray, engines and thousands of open requests hold files; with 1,024 a run dies in the middle.

Tested in tests/doctor/checks/test_judgements.py.
"""

from cai_ray.doctor.facts import Facts, Finding

CHECK = "open files"
LEAST = 8192


def judge(facts: Facts) -> Finding:
    few = [node for node in facts.nodes if node.open_files < LEAST]
    least = min((few or facts.nodes), key=lambda node: node.open_files)
    told = f"{least.open_files:,} a process on {facts.said_of(few or [least])}"
    return Finding(check=CHECK, told=told, mend="`ulimit -n 65536` before `ray start`" if few else "")
