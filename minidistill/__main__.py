"""python -m minidistill: see `minidistill.cli`."""

from minidistill.cli import main

if __name__ == "__main__":
    main()
