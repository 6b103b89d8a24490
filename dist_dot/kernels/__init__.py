"""The inner products of one block, and the tree that adds up those of all."""
