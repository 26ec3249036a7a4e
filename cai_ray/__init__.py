"""cai_ray: Constitutional AI as a distributed batch system on Ray.

The map, from the ground up; imports go down, never up, and rooms of one wing never reach into another
(`tests/test_floors.py` holds the rules):

    words       rows, dropped, config, chat, markup, seeding, fingerprint, errors, exits, stopping, lookup, shelf,
                constitution/                                          what things are called, and where they lie
    pure        prompts/, quality/, algorithms/, metrics/, prompt_layouts/                        text and maths
    artifacts   artifacts/                                         what a stage leaves on disk; each row counts once
    progress    progress/                                          what a person sees meanwhile
    engines     engines/{models, weights, conversations, backends, training, rollouts, learners}  Ray, vLLM, torch
    stages      stages/{inputs, abliteration, revision, supervised, preferences, ppo, evaluation, report}, microworld/
    serving     serving/                                           a trained model as a server, or in a terminal
    pipeline    pipeline/, planning/                               a recipe, its steps, a run; what it will take
    elsewhere   submission/, publishing/, doctor/      a run as a job, or on the hub; what is wrong with a cluster
    top         commands/, cli                                     one command

Start reading at `stages/revision/revise.py` (what happens to a row), then `engines/conversations/generation.py` (how
thousands of rows share an engine), `engines/conversations/supervisor.py` (what happens when it dies) and
`artifacts/parts.py` (how each row counts exactly once).
"""

__version__ = "0.1.0"
