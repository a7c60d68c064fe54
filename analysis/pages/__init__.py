"""What a reader sees: page, figures, style."""
