"""Two recorded races re-analysed with intervals; the command is `python -m analysis.records`."""
