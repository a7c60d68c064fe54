"""One language-model run: corpus, model, program, loop, records."""
