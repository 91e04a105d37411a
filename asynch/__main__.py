"""`python -m asynch`."""

from __future__ import annotations

from asynch.cli import main

main()
