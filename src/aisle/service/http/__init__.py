"""The service over HTTP: applications, routes, limits, errors, and the server that runs them."""
