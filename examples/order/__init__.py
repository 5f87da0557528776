"""A shop: an order is paid, allocated, booked with a carrier and shipped, or undone."""
