"""`python -m prunetime`."""

from prunetime.cli import main

main(prog_name="prunetime")
