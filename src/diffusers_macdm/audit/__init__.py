"""Does a model copy its training images? The copy audit (`macdm audit`)."""
