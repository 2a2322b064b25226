"""What fits: quota definitions, windows, the charges of a request, and the ledger's contract and state machine."""
