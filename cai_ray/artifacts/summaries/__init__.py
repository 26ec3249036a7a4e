"""What each stage says of its output in `summary.json`: one model a stage; the stage writes it, the report reads it."""
