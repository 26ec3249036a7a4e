"""A Unix socket's path has at most 107 bytes: Ray's and the engines' lie below temporary folders.

Tested in tests/doctor/checks/test_judgements.py.
"""

from cai_ray.doctor.facts import Facts, Finding, Node

CHECK = "temporary path"
MOST_BYTES = 107
ENGINE_SOCKET = "/" + "0" * 36  # a UUID, as vLLM names its sockets


def judge(facts: Facts) -> Finding:
    long = [node for node in facts.nodes if _longest(node) > MOST_BYTES]
    worst = max((long or facts.nodes), key=_longest)
    told = (
        f"sockets of {_longest(worst)} bytes (of {MOST_BYTES}) below {worst.temp} on {facts.said_of(long or [worst])}"
    )
    return Finding(check=CHECK, told=told, mend="set TMPDIR and `ray start --temp-dir` to short paths" if long else "")


def _longest(node: Node) -> int:
    return max(len(node.ray_socket.encode()), len((node.temp + ENGINE_SOCKET).encode()))
