"""A model's files: reading, loading, scoring with and exporting them."""
