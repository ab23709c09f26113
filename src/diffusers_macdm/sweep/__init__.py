"""What guidance, strength, steps and mask weights do to the pairs: `macdm sweep`."""
