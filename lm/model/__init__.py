"""The Llama of the study, its attention and loss, and what they cost in FLOPs."""
