"""Pure maths of training on tensors and arrays: losses, centring. No Ray, no models."""
