"""Tables, fits, figures and the report, from result files alone; never imports JAX."""
