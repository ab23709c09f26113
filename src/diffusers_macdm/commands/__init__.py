"""The console command `macdm`."""
