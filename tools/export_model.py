#!/usr/bin/env python3
"""Exports a Hugging Face causal language model for kvtool. See --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from kvtool.export import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
