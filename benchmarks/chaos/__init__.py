"""What faults cost: each is injected three times into a real run, and what the run then left is counted.

    python -m benchmarks.chaos [--only FAULT ...] [--times 3] [--folder FOLDER] [--results FOLDER]

A fault and repetition that is in the result file is not done again; delete its entry to have it measured anew. What the
fault hits is real: vLLM and Ray Train on the micro model where the fault is theirs, a server of scripted answers where
it is not. Hosts, object stores, Slurm and that server are those of tests/, so this runs from a checkout.
"""
