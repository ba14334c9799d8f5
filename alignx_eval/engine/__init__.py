"""What a suite asks of a model: vectors, bits and outputs of texts."""
