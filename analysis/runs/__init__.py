"""Result files and recorded studies, read into one tidy table."""
