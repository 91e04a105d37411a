"""The cleaner: what happens to tasks by itself. One duty a file, one leader among all workers, bounded batches."""
