"""What a model writes to its residual stream: read, changed at run time, changed in the weights."""
