"""What is told of a decision afterwards: records and logs."""
