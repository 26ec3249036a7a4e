"""How prompt sets lie on disk, and how each becomes conversations. No ray, no models.

`files` reads records (JSONL, CSV, Parquet, ...), `records` checks single values, `conversations` and
`prompt_sets` know one layout each, `layouts` picks the layout and binds it to the columns of a file,
`mixture` decides how many prompts each source gives.
"""
