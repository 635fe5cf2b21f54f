"""Runs the command: `python -m dipair_index` is `dipair-index`."""

from __future__ import annotations

from dipair_index.cli import main

if __name__ == "__main__":
    main()
