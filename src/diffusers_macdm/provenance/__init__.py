"""Which cases trained a model or stand behind a synthetic set, and who must not be measured on them."""
