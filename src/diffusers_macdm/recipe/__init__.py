"""From a folder to a model in one command: `macdm train`, and the page of a model's folder."""
