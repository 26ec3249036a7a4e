"""Where the dashboard listens. Tokens travel in clear over HTTP, so that it belongs on loopback or a private address.

Tested in tests/doctor/checks/test_judgements.py.
"""

import ipaddress

from cai_ray.doctor.facts import Facts, Finding

CHECK = "dashboard"


def judge(facts: Facts) -> Finding:
    server = facts.dashboard
    if server is None or not server.bound_to:
        return Finding(check=CHECK, told="none listens here")
    addresses = [ipaddress.ip_address(bound.partition("%")[0]) for bound in server.bound_to]
    told = f"listens on {', '.join(server.bound_to)}"
    has_token = server.status_without_token in (401, 403)
    is_wide = any(address.is_unspecified or address.is_global for address in addresses)
    if all(address.is_loopback for address in addresses) or (has_token and not any(a.is_global for a in addresses)):
        told += ", every interface, behind the token" if is_wide else ""
        return Finding(check=CHECK, told=told)
    mend = "start the head with --dashboard-host=127.0.0.1 and reach it through a tunnel"
    return Finding(check=CHECK, told=told, mend=mend)
