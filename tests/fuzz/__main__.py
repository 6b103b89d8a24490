"""Runs case after case, prints what it finds, and at the end how much of each kind.

Exit status 0 if nothing was found but fits that said themselves that they had not come to a minimum. These are counted.
"""

import argparse
import logging
import sys
import time
from collections import defaultdict

import dist_dot_cluster

from fuzz.case import drawn
from fuzz.check import check, script


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--case", type=int, help="this case alone, with a script that does it")
    parser.add_argument("--ordinary", action="store_true", help="units, offsets and columns as they are in practice")
    parser.add_argument("--workers", type=int, default=0, help="of a cluster that one case in twelve is repeated on")
    options = parser.parse_args()
    logging.getLogger("distributed").setLevel(logging.ERROR)
    if options.case is not None:
        case = drawn(options.seed, options.case, options.ordinary)
        found = check(case)
        print(script(case), *(found or [found]), sep="\n")
        return int(bool(found))
    with dist_dot_cluster.open(f"local:{options.workers}" if options.workers else "none") as client:
        return _run(options, client)


def _run(options: argparse.Namespace, client: object) -> int:
    end, kinds, fitted, number = time.monotonic() + 60 * options.minutes, defaultdict(list), 0, options.first
    silent, said = set(), set()
    while time.monotonic() < end and number < options.first + options.count:
        found = check(drawn(options.seed, number, options.ordinary), client)
        fitted += found is not None
        for find in found or ():
            kinds[find.kind].append((number, find.words))
            (said if find.said else silent).add(number)
            print(
                f"--seed {options.seed}{' --ordinary' * options.ordinary} --case {number}: {find.kind}: {find.words}",
                flush=True,
            )
        number += 1
    print(
        f"seed {options.seed}: cases {options.first} .. {number - 1}, {fitted} of them fitted; {len(silent)} wrong "
        f"without a word, {len(said - silent)} that could have come to a minimum and said that they had not"
    )
    for kind, each in sorted(kinds.items(), key=lambda item: -len(item[1])):
        print(f"{len(each):6} {kind}: cases {', '.join(str(at) for at, _ in each[:5])}; {each[0][1]}")
    return int(bool(silent))


if __name__ == "__main__":
    sys.exit(main())
