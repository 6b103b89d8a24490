"""Where the rows live, and the only code that touches them."""
