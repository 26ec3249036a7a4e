"""The nouns of the command line and their verbs: recipes, config, constitution, microworld."""
