"""Every text a model is shown, each template beside the parser of what comes back. Pure: dicts in, dicts out."""
