"""Graph convolutions, sequence encoder and the model that joins them."""
