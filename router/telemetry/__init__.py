"""What ops see: metrics, the request log, and the view of workers, summed over processes."""
