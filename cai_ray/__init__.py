"""cai_ray: Constitutional AI as a distributed batch system on Ray.

The map, from the ground up; imports go down, never up (`tests/test_floors.py`):

    words      rows, config, constitution, chat, seeding, fingerprint, errors     what everything is called
    pure       prompts/, quality/, metrics/, prompt_layouts/                      text and maths, no Ray, no vLLM
    machines   engines/                                                           Ray, vLLM, storage, endpoints
    stages     stages/, microworld/                                               a config, row functions and `run`
    top        recipe, pipeline, cli                                              one file, one command

Start reading at `stages/revision/revise.py` (what happens to a row), then `engines/conversations/generation.py` (how thousands
of rows share an engine), `engines/conversations/supervisor.py` (what happens when it dies) and `artifacts/parts.py` (how
each row counts exactly once).
"""

__version__ = "0.1.0"
