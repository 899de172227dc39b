"""``python -m speechft``: the command line, as ``accelerate launch -m speechft`` needs it."""

from speechft.cli import main

if __name__ == "__main__":
    main()
