"""A customer's cart: one saga that lives across many runs."""
