"""One file a judge: what it is told, what it asks, how it reads, which engine it needs."""
