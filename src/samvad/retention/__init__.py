"""What is kept for how long: the rules, and the sweeper that applies them."""
