"""Matrix functions of the rules: Newton-Schulz, SOAP's eigenbases, Kron's factors, LAPACK calls."""
