"""What X, y and the weights may be, how they are cut into blocks, and whether they are on the host or on a GPU."""
