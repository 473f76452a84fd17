"""The recorder: watches a network while it trains, within a share of the training time, and changes nothing of the run."""
