"""Files of weights to arrays, arrays to a model's variables, and back."""
