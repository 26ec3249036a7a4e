"""Whoever reaches a cluster without a token may run anything on it (CVE-2023-48022): it must answer with a refusal.

Tested in tests/doctor/checks/test_judgements.py.
"""

from cai_ray.doctor.facts import Facts, Finding

CHECK = "token"


def judge(facts: Facts) -> Finding:
    server = facts.dashboard
    if server is None:
        return Finding(check=CHECK, told="no job server here to ask")
    if server.status_without_token in (401, 403):
        return Finding(check=CHECK, told=f"{server.address} refuses who has none ({server.status_without_token})")
    return Finding(
        check=CHECK,
        told=f"{server.address} answers who has no token ({server.status_without_token})",
        mend="`ray get-auth-token --generate`, then RAY_AUTH_MODE=token before `ray start` on every node",
    )
