"""What tools/bench.py consists of: the rows, the Python peer, the machine, the table."""
