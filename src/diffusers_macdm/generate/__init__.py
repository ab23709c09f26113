"""Synthetic data sets from a trained model: `macdm generate`."""
