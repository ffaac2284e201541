"""What tools/model_sweep.py consists of: the trial of one type, the table of all."""
