"""A differential fuzzer: random fits, held against the conditions of a minimum in long double, and against each other.

`make fuzz` runs it for hours. What it finds is printed with one line that does it again:
`PYTHONPATH=tests:. python -m fuzz --seed 1 --case 17`.

case.py draws a case and its rows; reference.py has F and its derivatives, written from scikit-learn's documentation,
and how far from a minimum a fit may end; fits.py fits, and again to the same rows in other words; __main__.py goes on
and on.

readers.py is another one, of files: jobs, tables, models and checkpoints, damaged in the ways of damage.py.
"""
