"""The journal: its parts one by one, and runs that are stopped, killed and gone on with."""
