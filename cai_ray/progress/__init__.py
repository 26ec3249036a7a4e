"""What a person sees while a run works: the board of stages, a stage's line, a training's line."""
