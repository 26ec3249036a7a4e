"""The recipe's models, engines and trainings on the smallest GPU there is, as `cai-ray plan` reckons.

Tested in tests/doctor/checks/test_judgements.py.
"""

from cai_ray.doctor.facts import GIB, Facts, Finding

CHECK = "GPU memory"


def judge(facts: Facts) -> Finding:
    gpus = [gpu for node in facts.nodes for gpu in node.gpus]
    if not gpus:
        return Finding(check=CHECK, told="no GPU here now: engines run on the CPU")
    kinds = sorted({f"{gpu.name} with {gpu.memory / GIB:.0f} GiB" for gpu in gpus})
    told = f"{len(gpus)} x {', '.join(kinds)}"
    if facts.does_not_fit:
        mend = "raise the stage's engine.tensor_parallel_size or zero_stage, use a smaller model, or larger GPUs"
        return Finding(check=CHECK, told=f"{told}: {'; '.join(facts.does_not_fit)}", mend=mend)
    return Finding(check=CHECK, told=told if facts.does_not_fit is None else f"{told}: every stage fits")
