"""Cases from the field: what people's own files, models and servers do to a run."""
