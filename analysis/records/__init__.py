"""Two recorded races re-analysed with intervals; the command is `python -m analysis.records`."""

from analysis.records import qwen3_ladder, track3

RECORDS = {"qwen3_ladder": qwen3_ladder, "track3": track3}  # each: TITLE, numbers(), sentences()
