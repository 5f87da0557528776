"""A payout of many transfers: some may fail, or all are taken back."""
