"""Signs a user up: what was created is taken away if the user does not come."""
