"""Clocks that differ: object stores refuse requests signed minutes ago, and logs of nodes cannot be read together.

Tested in tests/doctor/checks/test_judgements.py.
"""

from cai_ray.doctor.facts import Facts, Finding

CHECK = "clock"
MOST_S = 5.0


def judge(facts: Facts) -> Finding:
    wrong = [node for node in facts.nodes if abs(node.clock_offset) - node.clock_doubt > MOST_S]
    most = max((wrong or facts.nodes), key=lambda node: abs(node.clock_offset))
    told = f"{most.clock_offset:+.1f} s on {facts.said_of(wrong or [most])}"
    return Finding(check=CHECK, told=told, mend="run an NTP client (chrony) there" if wrong else "")
