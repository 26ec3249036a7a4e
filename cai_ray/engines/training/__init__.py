"""One launcher for every training stage: Ray Train, DeepSpeed, checkpoints that verify, one saved model."""
