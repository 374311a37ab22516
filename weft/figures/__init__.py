"""The pictures and the page of a run's report: one file each. Same numbers in, same bytes out."""
