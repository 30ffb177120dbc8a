"""Which prior stands for which object: pure functions, one image at a time, without gradient."""
