"""Who holds the blocks, and how all of them are asked at once."""
