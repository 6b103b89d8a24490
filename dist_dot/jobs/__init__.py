"""One run, end to end: a job file and a cluster in, a model folder and a report out."""
