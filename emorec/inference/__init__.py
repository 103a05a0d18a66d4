"""What a trained model says: the ranking of the catalogue, and lists for users."""
