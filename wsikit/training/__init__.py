"""What methods share that learn: one loop, checkpoints with cards, splits by patient. Importing it imports no torch."""
