"""Publishing on the Hub and loading from it."""
