"""python -m emorec."""

from emorec.cli import main

if __name__ == "__main__":
    main(prog_name="python -m emorec")
