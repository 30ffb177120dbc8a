"""Which prior stands for which object: pure functions, one picture at a time, without gradient."""
