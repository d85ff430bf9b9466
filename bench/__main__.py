"""``python -m bench [SUBJECT ...]``: measure, print, and write docs/benchmarks.md.

A subject is a module with a ``TITLE`` and ``async def measure() -> list[ReportTable]``; it is listed below.
"""

import argparse
import asyncio
import importlib

from bench import document

SUBJECTS = ("applications", "authority", "election", "rotation", "withdrawal", "agent")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures, and writes docs/benchmarks.md.")
    parser.add_argument("subjects", nargs="*", metavar="SUBJECT", help=f"of {', '.join(SUBJECTS)}; by default all")
    for subject in parser.parse_args().subjects or SUBJECTS:
        if subject not in SUBJECTS:
            parser.error(f"expected subjects of {', '.join(SUBJECTS)}, found {subject}")
        module = importlib.import_module(f"bench.{subject}")
        tables = asyncio.run(module.measure())
        document.write(subject, module.TITLE, tables)
        for table in tables:
            print(f"{table.markdown()}\n")


if __name__ == "__main__":
    main()
