"""Supervised fine-tuning on the revisions: SL-CAI."""
