"""How good samples are: distances between sets of pictures, and the nets that look at them."""
