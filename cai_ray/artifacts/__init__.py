"""What a stage leaves on disk: storage, parts, manifests, metrics. Every row counts exactly once (G1-G4)."""
