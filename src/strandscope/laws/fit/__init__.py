"""Laws fitted to a table of runs: parameters with intervals, what they predict, and what larger sizes say of other forms."""
