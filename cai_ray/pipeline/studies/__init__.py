"""A study: several models, as they are, without their direction of refusal and with it added, each in one run."""
