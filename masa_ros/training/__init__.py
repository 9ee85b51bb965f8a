"""Self-supervised training from unlabelled images."""
