"""What would go wrong on this cluster, found in a minute: facts of every node, and a judgement of each kind."""
