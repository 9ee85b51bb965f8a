"""How a network runs: eager PyTorch, torch.compile, TensorRT. Build, check, keep.

``prepare.Engines`` does it all for a detector; ``runtimes`` says what a runtime is.
"""
