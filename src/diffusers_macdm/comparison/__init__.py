"""MaC-DM beside other generative models: the same data, the same training budget, the same evaluation."""
