"""Records and files: what a user stores, and how it is read and written."""
