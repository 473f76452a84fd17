"""`python -m strandscope` is the command `strandscope`."""

from .cli.main import run

if __name__ == "__main__":
    run()
