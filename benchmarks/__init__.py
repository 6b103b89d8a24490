"""What dist_dot costs, measured. Each module writes records, `benchmarks.report` makes the tables of them."""
