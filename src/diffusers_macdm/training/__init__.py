"""The two trainings, started by `accelerate launch`: the denoiser and its guidance classifier."""
