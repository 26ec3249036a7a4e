"""Every node writes, reads and lists the run's folder, and all of them see the same files there.

Tested in tests/doctor/checks/test_judgements.py.
"""

from cai_ray.doctor.facts import Facts, Finding
from cai_ray.engines.shared_folder import MEND

CHECK = "storage"


def judge(facts: Facts) -> Finding:
    if facts.output is None:
        return Finding(check=CHECK, told="not asked: give a RECIPE")
    failed = [node for node in facts.nodes if node.storage_error]
    if failed:
        told = f"{facts.output}: {failed[0].storage_error} on {facts.said_of(failed)}"
        return Finding(check=CHECK, told=told, mend="give its nodes access, or " + MEND)
    if facts.unseen:
        told = f"{facts.output}: the driver does not see what {', '.join(facts.unseen)} writes"
        return Finding(check=CHECK, told=told, mend=MEND)
    return Finding(check=CHECK, told=f"{facts.output}: written, read, listed by {facts.said_of(facts.nodes)}")
