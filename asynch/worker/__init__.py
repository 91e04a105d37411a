"""The worker: claims tasks, calls the models, stores the results, and survives what happens meanwhile."""
