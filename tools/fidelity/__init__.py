"""What tools/fidelity.py consists of: models, cells, the truth from full logits, the page."""
