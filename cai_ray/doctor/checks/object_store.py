"""Ray's object store lies in shared memory; one that is larger than that falls back to the disk, and is slow.

Tested in tests/doctor/checks/test_judgements.py.
"""

from cai_ray.doctor.facts import GIB, Facts, Finding

CHECK = "object store"


def judge(facts: Facts) -> Finding:
    too_large = [node for node in facts.nodes if node.object_store > node.shm_total > 0]
    if too_large:
        node = too_large[0]
        return Finding(
            check=CHECK,
            told=f"{node.object_store / GIB:.1f} GiB in {node.shm_total / GIB:.1f} GiB of /dev/shm on "
            f"{facts.said_of(too_large)}",
            mend="give the container more (--shm-size) or lower --object-store-memory",
        )
    least = min(node.object_store for node in facts.nodes)
    return Finding(check=CHECK, told=f"{least / GIB:.1f} GiB and more" if least else "none until Ray is started")
