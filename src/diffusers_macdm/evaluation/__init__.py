"""Does it help, is it realistic, do the masks fit: measurements on synthetic pairs, each beside its control."""
