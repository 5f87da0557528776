"""A payment: authorized, captured in parts, settled, refunded in parts; and a person where nobody else knows."""
