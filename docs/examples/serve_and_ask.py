"""Asks a server for scores, as fast as a deadline wants them.

prunetime serve ARTIFACT &
python serve_and_ask.py http://127.0.0.1:8080
"""

import sys

from prunetime import Client


def main(url: str) -> None:
    with Client(url) as client:
        for ranked in client.rank("red sofa", ["velvet couch in red", "garden hose"], timeout=0.5):
            print(ranked["corpus_id"], f"{ranked['score']:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
