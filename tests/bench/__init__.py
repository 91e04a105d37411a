"""What the product costs, always beside what the same work costs without it: ratios of one run, no thresholds."""
