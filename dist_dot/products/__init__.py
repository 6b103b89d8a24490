"""Inner products as such: all pairs of rows, their sums, and the rows nearest to a query."""

from dist_dot.products.pairs import cosine_similarity, dot, gram, inner
from dist_dot.products.search import Best, top_k

__all__ = ["Best", "cosine_similarity", "dot", "gram", "inner", "top_k"]
