"""Matrix functions of the rules: Newton-Schulz, eigenbases, triangular factors, LAPACK's needs."""
