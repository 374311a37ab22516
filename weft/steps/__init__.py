"""One module per rule: what a job does with the rooms, from receipts to receipts."""
