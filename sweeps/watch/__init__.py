"""A study as it stands, read from its files: what is done, what runs, what is still to come."""
