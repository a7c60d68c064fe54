"""A pod launch checked without a pod: compiled steps, read and tabled."""
