"""The admin API and its page: who signs in sees and changes what the bundle's policies let them, as on the command line."""
