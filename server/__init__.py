"""The faces: the command line, the HTTP server and the search page."""
