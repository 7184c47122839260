"""The workers of a controller that run once, whoever is responsible: what they do, and what they ask of the world."""
