"""A purchase that two people outside the workflow have to approve: one by an update, one through a webhook."""
