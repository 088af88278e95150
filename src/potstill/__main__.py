"""`python -m potstill`: what torchrun and Accelerate start, once a rank.

In:  what was typed.
Out: what `cli` makes of it.
Does not know: anything else.
"""

from potstill.cli import main

if __name__ == "__main__":
    main()
