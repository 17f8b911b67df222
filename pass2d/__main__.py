"""`python -m pass2d`: the `pass2d` program."""

from pass2d.cli import main

if __name__ == "__main__":
    main()
