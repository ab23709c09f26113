"""Weights of other code bases under diffusers' names."""
