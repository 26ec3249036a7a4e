"""Engines over several GPUs and trainings exchange tensors by /dev/shm; a container has 64 MB unless told.

Tested in tests/doctor/checks/test_judgements.py.
"""

from cai_ray.doctor.facts import GIB, Facts, Finding

CHECK = "shared memory"
LEAST = GIB


def judge(facts: Facts) -> Finding:
    small = [node for node in facts.nodes if 0 < node.shm_total < LEAST]
    least = min((small or facts.nodes), key=lambda node: node.shm_total)
    told = f"/dev/shm has {least.shm_total / GIB:.1f} GiB on {facts.said_of(small or [least])}"
    return Finding(check=CHECK, told=told, mend="docker run --shm-size=16g, or a larger emptyDir" if small else "")
