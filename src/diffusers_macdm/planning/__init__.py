"""Settings of the trainings from the data and the device: `macdm show` and `macdm plan`."""
