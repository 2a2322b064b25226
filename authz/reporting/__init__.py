"""What was used, what it cost, how budgets stand: pure, with the clock as an argument, for the command and the admin API."""
