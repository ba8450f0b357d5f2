"""What models with weights share: devices, preprocessing, encoders, heads over bags. Importing it imports no torch."""
