"""The recorded races as a table of estimates with intervals.

python -m analysis.records qwen3_ladder
python -m analysis.records track3 --table=board --out=board.csv
"""

import argparse
import sys

import pandas as pd

from analysis.records import RECORDS


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.records",
        description=__doc__.splitlines()[0],
        epilog="examples:\n" + __doc__.split("\n\n")[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("record", choices=sorted(RECORDS))
    parser.add_argument("--table", help="only the rows of this table")
    parser.add_argument("--out", metavar="FILE", help="write a CSV as well")
    given = parser.parse_args(argv)
    found = RECORDS[given.record].numbers()
    if given.table and given.table not in set(found.table):
        parser.error(f"--table: there are {', '.join(found.table.unique())}")
    found = found[found.table == given.table] if given.table else found
    if given.out:
        try:
            found.to_csv(given.out, index=False, lineterminator="\n")
        except OSError as error:
            print(f"error: {given.out}: {error.strerror}", file=sys.stderr)
            return 2
    with pd.option_context("display.max_colwidth", None):
        print(found.to_string(index=False, na_rep="", float_format="{:.4g}".format))
    return 0


if __name__ == "__main__":
    sys.exit(main())
